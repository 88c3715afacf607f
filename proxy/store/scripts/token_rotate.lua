-- KEYS  1 token
-- ARGV  1 id  2 SHA-256 of the new secret  3 channel  4 ms until the one before it is good
-- Returns the new generation, or 0 when there is no such token.

local current = redis.call('HGET', KEYS[1], 'secret_sha256')
if not current then
  return 0
end
redis.call('HSET', KEYS[1], 'previous_sha256', current, 'previous_until_ms', ARGV[4],
  'secret_sha256', ARGV[2])
local generation = redis.call('HINCRBY', KEYS[1], 'generation', 1)
redis.call('PUBLISH', ARGV[3], 'token|' .. ARGV[1] .. '|' .. generation)
return generation
