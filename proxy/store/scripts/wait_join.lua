-- Put a task into an upstream's queue, behind those of its token that were made before it.
-- KEYS  1 tasks  2 ring of tokens  3 the token's tasks  4 leases
-- ARGV  1 id  2 token  3 created_ms  4 most tasks there may be, '' = any number
--       5 ms until when nobody is handed it, '' = at once  6 ms the keys live on
-- Returns 1 when it is there (also when it was), 0 when there is no room.

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  if ARGV[4] ~= '' and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then
    return 0
  end
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
  if not redis.call('ZSCORE', KEYS[2], ARGV[2]) then
    local last = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
    redis.call('ZADD', KEYS[2], (tonumber(last) or 0) + 1, ARGV[2])
  end
  if ARGV[5] ~= '' then
    redis.call('ZADD', KEYS[4], ARGV[5], ARGV[1])
  end
end
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ARGV[6])
end
return 1
