-- Write a new task, all of it or nothing, within what its token and owner may have.
-- KEYS  1 task  2 line  3 owner index  4 due  5 alias  6 idempotency key  7 recent submits
--       (5, 6 and 7 repeat 1 where the request has none)  8 ledger
--       9… one zset of tasks in flight per ARGV flight, then one balance per ARGV budget
-- ARGV  1 id  2 created_ms  3 due_ms  4 line entry  5 channel  6 message
--       7 fingerprint  8 retries the client announces  9 ms a key is kept  10 ms a submit counts
--       as recent  11 most recent submits kept
--       12 micro-units held  13 ms a task can be in flight  14 ledger entry
--       15 how many flights, then for each its name and the most in flight ('' = any number)
--       then how many budgets, then for each its name, the most spent ('' = any amount) and the
--       ms it is kept ('' = for ever)
--       then the UTC day, whose use it counts as and the ms that is kept, then fields of the hash
-- Returns nil when written, else {why, what}: same, replay, mismatch, retry, alias and the id;
-- flight, budget and the name of what is exhausted.

-- The same reservation twice: its answer was lost and the caller asked again. The task may
-- have moved on since, so it is left alone.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return {'same', ARGV[1]}
end
local prefix = string.sub(KEYS[1], 1, -#ARGV[1] - 1)
local function lives(id)
  return redis.call('EXISTS', prefix .. id) == 1
end
if KEYS[6] ~= KEYS[1] then
  local known = redis.call('GET', KEYS[6])
  if known then
    local id, fingerprint = string.match(known, '^(%S+) (%S+)$')
    if lives(id) then
      return {fingerprint == ARGV[7] and 'replay' or 'mismatch', id}
    end
  end
elseif KEYS[7] ~= KEYS[1] and tonumber(ARGV[8]) > 0 then
  -- The oldest of the same submits that has served fewer retries than this one announces: two
  -- creates meant as two keep one retry each, whichever comes first.
  for place, entry in ipairs(redis.call('LRANGE', KEYS[7], 0, -1)) do
    local id, at, served = string.match(entry, '^(%S+) (%d+) (%d+)$')
    if tonumber(at) > ARGV[2] - ARGV[10] and tonumber(served) < tonumber(ARGV[8]) and lives(id) then
      redis.call('LSET', KEYS[7], place - 1, id .. ' ' .. at .. ' ' .. (tonumber(served) + 1))
      return {'retry', id}
    end
  end
end
if KEYS[5] ~= KEYS[1] then
  local taken = redis.call('GET', KEYS[5])
  if taken then
    return {'alias', taken}
  end
end
local at, key = 15, 8
local flights, budgets = {}, {}
for _ = 1, tonumber(ARGV[at]) do
  key = key + 1
  flights[#flights + 1] = {key = KEYS[key], name = ARGV[at + 1], most = ARGV[at + 2]}
  at = at + 2
end
at = at + 1
for _ = 1, tonumber(ARGV[at]) do
  key = key + 1
  budgets[#budgets + 1] = {key = KEYS[key], name = ARGV[at + 1], most = ARGV[at + 2], life = ARGV[at + 3]}
  at = at + 3
end
for _, flight in ipairs(flights) do
  if flight.most ~= '' then
    redis.call('ZREMRANGEBYSCORE', flight.key, '-inf', ARGV[2])
    if redis.call('ZCARD', flight.key) >= tonumber(flight.most) then
      return {'flight', flight.name}
    end
  end
end
local hold = tonumber(ARGV[12])
if hold > 0 then
  for _, budget in ipairs(budgets) do
    if budget.most ~= '' then
      local known = redis.call('HMGET', budget.key, 'held', 'spent')
      if (tonumber(known[1]) or 0) + (tonumber(known[2]) or 0) + hold > tonumber(budget.most) then
        return {'budget', budget.name}
      end
    end
  end
end

-- First, so that a task whose record did not come to be is still looked at.
redis.call('ZADD', KEYS[4], ARGV[3], ARGV[1])
for _, flight in ipairs(flights) do
  redis.call('ZADD', flight.key, ARGV[2] + ARGV[13], ARGV[1])
  redis.call('PEXPIRE', flight.key, ARGV[13])
end
if hold > 0 then
  for _, budget in ipairs(budgets) do
    redis.call('HINCRBY', budget.key, 'held', ARGV[12])
    if budget.life ~= '' then
      redis.call('PEXPIRE', budget.key, budget.life)
    end
  end
  local entry = redis.call('XADD', KEYS[8], '*', 'entry', ARGV[14])
  redis.call('HSET', KEYS[1], 'hold', entry)
  local tag, ledger = string.match(KEYS[8], '^(rw:{%x+}:)led:(.*)$')
  redis.call('SADD', tag .. 'leds', ledger)
end
if KEYS[5] ~= KEYS[1] then
  redis.call('SET', KEYS[5], ARGV[1])
end
if KEYS[6] ~= KEYS[1] then
  redis.call('SET', KEYS[6], ARGV[1] .. ' ' .. ARGV[7], 'PX', ARGV[9])
elseif KEYS[7] ~= KEYS[1] then
  redis.call('RPUSH', KEYS[7], ARGV[1] .. ' ' .. ARGV[2] .. ' 0')
  redis.call('LTRIM', KEYS[7], -tonumber(ARGV[11]), -1)
  redis.call('PEXPIRE', KEYS[7], ARGV[10])
end
local tag = string.match(KEYS[3], '^rw:{%x+}:')
local use = tag .. 'use:' .. ARGV[at + 1]
redis.call('HINCRBY', use, 'submits ' .. ARGV[at + 2], 1)
redis.call('PEXPIRE', use, ARGV[at + 3])
redis.call('HSET', KEYS[1], unpack(ARGV, at + 4))
redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
redis.call('ZADD', tag .. 'made', ARGV[2], ARGV[1])
redis.call('ZADD', tag .. 'mine:' .. redis.call('HGET', KEYS[1], 'tok'), ARGV[2], ARGV[1])
redis.call('RPUSH', KEYS[2], ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return false
