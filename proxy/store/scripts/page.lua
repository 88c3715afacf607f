-- The next members of an owner's index, in one look, so that new tasks cannot shift the page.
-- KEYS  1 owner index
-- ARGV  1 member to start after, '' = from the start  2 its score, '' = not known
--       3 'asc' or 'desc'  4 how many
-- Returns member, score, member, score, …; 0 when the member is not there and has no score.

local down = ARGV[3] == 'desc'
local start = 0
if ARGV[1] ~= '' then
  local rank = redis.call(down and 'ZREVRANK' or 'ZRANK', KEYS[1], ARGV[1])
  if rank then
    start = rank + 1
  elseif ARGV[2] == '' then
    return 0
  elseif down then -- trimmed since the last page: begin again at its score
    start = redis.call('ZCOUNT', KEYS[1], '(' .. ARGV[2], '+inf')
  else
    start = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[2])
  end
end
local stop = start + tonumber(ARGV[4]) - 1
return redis.call(down and 'ZREVRANGE' or 'ZRANGE', KEYS[1], start, stop, 'WITHSCORES')
