-- Lease the next task of an upstream's queue: of the token whose turn is the longest ago, the
-- one that was made first.
-- KEYS  1 ring of tokens  2 leases
-- ARGV  1 now_ms  2 ms when the lease ends  3 ms the leases live on  4… tasks to be passed over
-- Returns its id; nil when there is none.

redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[1])
local passed = {}
for place = 4, #ARGV do
  passed[ARGV[place]] = true
end
local prefix = string.match(KEYS[1], '^(.*)ring$') .. 'of:'

local function first_of(token)
  -- The token's first task that is not passed over, and whether one before it is. While one of
  -- its tasks is leased, those behind it have to wait: it might come back.
  local place, found_before = 0, false
  while true do
    local id = redis.call('ZRANGE', prefix .. token, place, place)[1]
    if not id or redis.call('ZSCORE', KEYS[2], id) then
      return nil
    elseif not passed[id] then
      return id, found_before
    end
    place, found_before = place + 1, true
  end
end

local chosen
for _, token in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local id, behind = first_of(token)
  if id and not behind then
    chosen = id
    break
  end
  -- Behind one that cannot be sent now: after the other tokens' own first ones.
  chosen = chosen or id
end
if chosen then
  redis.call('ZADD', KEYS[2], ARGV[2], chosen)
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
return chosen
