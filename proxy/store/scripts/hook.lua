-- Write what came of a webhook. One that has ended is kept for a while, but not longer than its
-- task, without which it cannot be sent again.
-- KEYS  1 hooks due  2 hook  3 hooks ended  4 its task
-- ARGV  1 name  2 document  3 due_ms, '' = it has ended  4 now_ms  5 ms an ended one is kept
--       6 the same while its task is open  7 most ended ones kept
-- Returns 1, or 0 when there is no such hook.

if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
  return 0
end
redis.call('HSET', KEYS[2], 'doc', ARGV[2])
if ARGV[3] ~= '' then
  redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
  redis.call('ZREM', KEYS[3], ARGV[1])
  redis.call('PERSIST', KEYS[2])
  return 1
end
redis.call('ZREM', KEYS[1], ARGV[1])
local kept = tonumber(ARGV[5])
local rest = redis.call('PTTL', KEYS[4]) -- -1: its task is open, -2: there is none
if rest == -2 then
  redis.call('DEL', KEYS[2])
  return 1
elseif rest == -1 then
  kept = tonumber(ARGV[6])
else
  kept = math.min(kept, rest)
end
redis.call('PEXPIRE', KEYS[2], kept)
-- By the ms it is gone, which is also how they leave: the sweep takes those that have expired,
-- and above the limit go those that had the least time left.
redis.call('ZADD', KEYS[3], ARGV[4] + kept, ARGV[1])
local surplus = redis.call('ZRANGE', KEYS[3], 0, -tonumber(ARGV[7]) - 1)
local prefix = string.sub(KEYS[2], 1, -#ARGV[1] - 1)
for _, name in ipairs(surplus) do
  redis.call('ZREM', KEYS[3], name)
  redis.call('DEL', prefix .. name)
end
return 1
