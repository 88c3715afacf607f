-- Take a task out of an upstream's queue.
-- KEYS  1 tasks  2 ring of tokens  3 leases
-- ARGV  1 id  2 1 = it was sent: its token's turn is over
-- Returns 1, or 0 when it was not there.

local token = redis.call('HGET', KEYS[1], ARGV[1])
if not token then
  return 0
end
local own = string.match(KEYS[2], '^(.*)ring$') .. 'of:' .. token
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', own, ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
if redis.call('EXISTS', own) == 0 then
  redis.call('ZREM', KEYS[2], token)
elseif ARGV[2] == '1' then
  local last = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
  redis.call('ZADD', KEYS[2], tonumber(last) + 1, token)
end
return 1
