-- Note that a client key is active at an upstream or a credential.
-- KEYS  1 active keys
-- ARGV  1 client key  2 now_ms  3 ms a key counts as active
-- Returns how many keys are active. The latest 256 are remembered.

redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2] - ARGV[3])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -257)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return redis.call('ZCARD', KEYS[1])
