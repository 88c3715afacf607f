-- Take a place among the tasks in flight with a credential, or renew it.
-- KEYS  1 places
-- ARGV  1 task id  2 now_ms  3 ms when it is taken for lost  4 most places, '' = any number
-- Returns 1 when held, 0 when all are taken.

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
local held = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not held and ARGV[4] ~= '' and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[4]) then
  return 0
end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
local left = ARGV[3] - ARGV[2]
if redis.call('PTTL', KEYS[1]) < left then
  redis.call('PEXPIRE', KEYS[1], left)
end
return 1
