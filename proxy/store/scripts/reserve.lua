-- Write a new task, all of it or nothing.
-- KEYS  1 task  2 line  3 owner index  4 due  5 alias (only when the client named the task)
-- ARGV  1 id  2 created_ms  3 due_ms  4 line entry  5 channel  6 message  7… fields of the hash
-- Returns nil when written, else the id that is already there.

-- The same reservation twice: its answer was lost and the caller asked again. The task may
-- have moved on since, so it is left alone.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return ARGV[1]
end
if KEYS[5] then
  local taken = redis.call('GET', KEYS[5])
  if taken then
    return taken
  end
  redis.call('SET', KEYS[5], ARGV[1])
end
redis.call('HSET', KEYS[1], unpack(ARGV, 7))
redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
redis.call('ZADD', KEYS[4], ARGV[3], ARGV[1])
redis.call('RPUSH', KEYS[2], ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return false
