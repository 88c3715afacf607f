-- KEYS  1 owner
-- ARGV  1 name  2 document  3 channel
-- Returns the version written.

redis.call('HSET', KEYS[1], 'doc', ARGV[2])
local version = redis.call('HINCRBY', KEYS[1], 'v', 1)
redis.call('PUBLISH', ARGV[3], 'owner|' .. ARGV[1] .. '|' .. version)
return version
