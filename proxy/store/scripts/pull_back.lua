-- Make due at once what is due later than anything can be: a clock had jumped ahead and is back.
-- KEYS  1 due
-- ARGV  1 now_ms  2 the latest ms that can be right  3 how many at most
-- Returns how many were pulled back.

local far = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[2], '+inf', 'LIMIT', 0, ARGV[3])
for _, name in ipairs(far) do
  redis.call('ZADD', KEYS[1], ARGV[1], name)
end
return #far
