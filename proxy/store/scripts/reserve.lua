-- Write a new task, all of it or nothing, within what its token and owner may have.
-- KEYS  1 task  2 line  3 owner index  4 due  5 alias  6 idempotency key  7 recent submits
--       (5, 6 and 7 repeat 1 where the request has none)  8 ledger
--       9… one zset of tasks in flight per ARGV flight, then one balance per ARGV budget
-- NAMED id created_ms due_ms line channel message fingerprint retries key_life_ms recent_ms
-- NAMED most_recent hold_micro longest_open_ms entry day use use_life_ms
--       `retries` the client announces; `recent_ms` a submit counts as recent; `entry` of the
--       ledger; `use` whose use of `day` it counts as
-- ARGV  after these how many flights, then for each its name and the most in flight ('' = any
--       number), then how many budgets, then for each its name, the most spent ('' = any amount)
--       and the ms it is kept ('' = for ever), then fields of the hash
-- Returns nil when written, else {why, what}: same, replay, mismatch, retry, alias and the id;
-- flight, budget and the name of what is exhausted.

-- The same reservation twice: its answer was lost and the caller asked again. The task may
-- have moved on since, so it is left alone.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return {'same', arg.id}
end
local prefix = string.sub(KEYS[1], 1, -#arg.id - 1)
local function lives(id)
  return redis.call('EXISTS', prefix .. id) == 1
end
if KEYS[6] ~= KEYS[1] then
  local known = redis.call('GET', KEYS[6])
  if known then
    local id, fingerprint = string.match(known, '^(%S+) (%S+)$')
    if lives(id) then
      return {fingerprint == arg.fingerprint and 'replay' or 'mismatch', id}
    end
  end
elseif KEYS[7] ~= KEYS[1] and tonumber(arg.retries) > 0 then
  -- The oldest of the same submits that has served fewer retries than this one announces: two
  -- creates meant as two keep one retry each, whichever comes first.
  for place, entry in ipairs(redis.call('LRANGE', KEYS[7], 0, -1)) do
    local id, at, served = string.match(entry, '^(%S+) (%d+) (%d+)$')
    if tonumber(at) > arg.created_ms - arg.recent_ms and tonumber(served) < tonumber(arg.retries) and lives(id) then
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
local at, key = NAMED + 1, 8
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
    redis.call('ZREMRANGEBYSCORE', flight.key, '-inf', arg.created_ms)
    if redis.call('ZCARD', flight.key) >= tonumber(flight.most) then
      return {'flight', flight.name}
    end
  end
end
local hold = tonumber(arg.hold_micro)
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
redis.call('ZADD', KEYS[4], arg.due_ms, arg.id)
for _, flight in ipairs(flights) do
  redis.call('ZADD', flight.key, arg.created_ms + arg.longest_open_ms, arg.id)
  redis.call('PEXPIRE', flight.key, arg.longest_open_ms)
end
if hold > 0 then
  for _, budget in ipairs(budgets) do
    redis.call('HINCRBY', budget.key, 'held', arg.hold_micro)
    if budget.life ~= '' then
      redis.call('PEXPIRE', budget.key, budget.life)
    end
  end
  local entry = redis.call('XADD', KEYS[8], '*', 'entry', arg.entry)
  redis.call('HSET', KEYS[1], 'hold', entry)
  local tag, ledger = string.match(KEYS[8], '^(rw:{%x+}:)led:(.*)$')
  redis.call('SADD', tag .. 'leds', ledger)
end
if KEYS[5] ~= KEYS[1] then
  redis.call('SET', KEYS[5], arg.id)
end
if KEYS[6] ~= KEYS[1] then
  redis.call('SET', KEYS[6], arg.id .. ' ' .. arg.fingerprint, 'PX', arg.key_life_ms)
elseif KEYS[7] ~= KEYS[1] then
  redis.call('RPUSH', KEYS[7], arg.id .. ' ' .. arg.created_ms .. ' 0')
  redis.call('LTRIM', KEYS[7], -tonumber(arg.most_recent), -1)
  redis.call('PEXPIRE', KEYS[7], arg.recent_ms)
end
local tag = string.match(KEYS[3], '^rw:{%x+}:')
local use = tag .. 'use:' .. arg.day
redis.call('HINCRBY', use, 'submits ' .. arg.use, 1)
redis.call('PEXPIRE', use, arg.use_life_ms)
redis.call('HSET', KEYS[1], unpack(ARGV, at + 1))
redis.call('ZADD', KEYS[3], arg.created_ms, arg.id)
redis.call('ZADD', tag .. 'made', arg.created_ms, arg.id)
redis.call('ZADD', tag .. 'mine:' .. redis.call('HGET', KEYS[1], 'tok'), arg.created_ms, arg.id)
redis.call('RPUSH', KEYS[2], arg.line)
redis.call('PUBLISH', arg.channel, arg.message)
return false
