-- KEYS  1 token
-- ARGV  1 id  2 channel  3 ms when the key dies, 'never', '' = as before
--       4… fields of the hash, '' = none
-- Returns 1, or 0 when there is no such token.

local generation = redis.call('HGET', KEYS[1], 'generation')
if not generation then
  return 0
end
for place = 4, #ARGV, 2 do
  if ARGV[place + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[place])
  else
    redis.call('HSET', KEYS[1], ARGV[place], ARGV[place + 1])
  end
end
if ARGV[3] == 'never' then
  redis.call('PERSIST', KEYS[1])
elseif ARGV[3] ~= '' then
  redis.call('PEXPIREAT', KEYS[1], ARGV[3])
end
redis.call('PUBLISH', ARGV[2], 'token|' .. ARGV[1] .. '|' .. generation)
return 1
