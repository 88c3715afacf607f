-- KEYS  1 downloads open
-- ARGV  1 name  2 how many there may be  3 now, ms  4 ms when the lease lapses
--       5 ms the key lives on
-- Returns 1, or 0 when there are as many already.

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[3])
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('ZADD', KEYS[1], ARGV[4], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1
