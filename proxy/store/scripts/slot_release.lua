-- Give back a place among the tasks in flight with a credential, and tell those who wait for one.
-- KEYS  1 places
-- ARGV  1 task id  2 channel  3 message
-- Returns 1, or 0 when it had none.

local left = redis.call('ZREM', KEYS[1], ARGV[1])
if left == 1 then
  redis.call('PUBLISH', ARGV[2], ARGV[3])
end
return left
