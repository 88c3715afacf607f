-- Take what has expired out of the indexes that outlive it.
-- KEYS  1 ended tasks  2 hooks ended
-- ARGV  1 now_ms  2 how many
-- Returns how many tasks there were.

local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
local tag = string.match(KEYS[1], '^rw:{%x+}:')
for _, member in ipairs(gone) do
  local left, owner = string.match(member, '^(%S+) (.*)$')
  local id, token = string.match(left, '^([^|]+)|(.*)$')
  id = id or left -- of a task that ended before there were indexes by token
  if token then
    redis.call('ZREM', tag .. 'mine:' .. token, id)
    if redis.call('EXISTS', tag .. 'mine:' .. token) == 0 then
      redis.call('DEL', tag .. 'mined:' .. token)
    end
  end
  redis.call('ZREM', tag .. 'own:' .. owner, id)
  redis.call('ZREM', tag .. 'made', id)
  redis.call('ZREM', KEYS[1], member)
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[1])
return #gone
