-- KEYS  1 token
-- ARGV  1 id  2 now_ms  3 channel
-- Returns 1, or 0 when there is no such token. Revoked twice keeps the first time, but tells
-- every worker again.

local generation = redis.call('HGET', KEYS[1], 'generation')
if not generation then
  return 0
end
redis.call('HSETNX', KEYS[1], 'revoked_ms', ARGV[2])
redis.call('PUBLISH', ARGV[3], 'token|' .. ARGV[1] .. '|' .. generation)
return 1
