-- A write that changes nothing, for WAIT to wait for: whatever was written of the task before
-- is then as safe as it.
-- KEYS  1 task
-- Returns 1, or 0 when there is no such task.

local version = redis.call('HGET', KEYS[1], 'v')
if not version then
  return 0
end
redis.call('HSET', KEYS[1], 'v', version)
return 1
