-- Bind a signature to the idempotency key it is first seen with.
-- KEYS  1 signature
-- ARGV  1 idempotency key  2 ms it is remembered
-- Returns the key it is bound to.

local known = redis.call('GET', KEYS[1])
if known then
  return known
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
