-- KEYS  1 token
-- ARGV  1 ms when the key dies, '' = never  2… fields of the hash
-- Returns 1, or 0 when the id is taken (nothing is written).

if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
if ARGV[1] ~= '' then
  redis.call('PEXPIREAT', KEYS[1], ARGV[1])
end
return 1
