-- Compare and set: the only way a task changes.
-- KEYS  1 task  2 line  3 owner index  4 due  5 alias  6 idempotency key  7 recent submits
--       (5, 6 and 7 repeat 1 where the request had none)  8 hooks due  9 hook  10 ledger
--       11… the zsets of tasks in flight, then the balances, it was reserved with
-- NAMED id version due_ms line most_lines channel message life_ms oldest_ms frees
-- NAMED hook now_ms hook_document flights ends held_micro cost_micro day
--       `version` that is expected; `due_ms` '' = no longer due; `line` '' = none
--       `life_ms` the keys live on, '' = the task is open; index entries from before `oldest_ms`
--       are dropped
--       `frees` 1 = it was never submitted: the names it took are free again  2 = it was refused:
--       so are they, and lists, counts and ledger forget it
--       `hook` its name, '' = nobody is to be told; it is due at `now_ms`
--       `flights` how many zsets of tasks in flight  `ends` 1 = its places are free again
--       `held_micro` and of these `cost_micro`; `day` of its submit
-- ARGV  after these how many ledger entries, then these, then how many counters of the day's use,
--       then for each its name and what is added, then fields of the hash
-- Returns 1 when written, 0 when there is no such task, else the document that is there.

local version = redis.call('HGET', KEYS[1], 'v')
if not version then
  return 0
end
if version ~= arg.version then
  return redis.call('HGET', KEYS[1], 'doc')
end
local entries = tonumber(ARGV[NAMED + 1])
local at = NAMED + 2 + entries
local counters = tonumber(ARGV[at])
redis.call('HSET', KEYS[1], unpack(ARGV, at + 1 + 2 * counters))
if counters > 0 then
  local use = string.match(KEYS[3], '^rw:{%x+}:') .. 'use:' .. arg.day
  for place = at + 1, at + 2 * counters, 2 do
    if redis.call('HINCRBY', use, ARGV[place], ARGV[place + 1]) <= 0 then
      redis.call('HDEL', use, ARGV[place])
    end
  end
  if redis.call('PTTL', use) == -1 then  -- of a task older than the counters
    redis.call('PEXPIRE', use, 100 * 24 * 3600 * 1000)
  end
end
if arg.ends == '1' then
  for place = 11, #KEYS do
    if place < 11 + tonumber(arg.flights) then
      redis.call('ZREM', KEYS[place], arg.id)
    elseif arg.held_micro ~= '0' then
      redis.call('HINCRBY', KEYS[place], 'held', '-' .. arg.held_micro)
      redis.call('HINCRBY', KEYS[place], 'spent', arg.cost_micro)
    end
  end
end
local is_refused = arg.frees == '2'
local tag, owner = string.match(KEYS[3], '^(rw:{%x+}:)own:(.*)$')
local token = redis.call('HGET', KEYS[1], 'tok')
if is_refused and entries > 0 then
  -- Its hold is taken back with the entry about it: nothing was sold.
  local hold = redis.call('HGET', KEYS[1], 'hold')
  if hold then
    redis.call('XDEL', tag .. 'led:' .. owner .. ':' .. string.sub(arg.day, 1, 6), hold)
    entries = 0
  end
end
for place = NAMED + 2, NAMED + 1 + entries do
  redis.call('XADD', KEYS[10], '*', 'entry', ARGV[place])
end
if entries > 0 then
  local tag, ledger = string.match(KEYS[10], '^(rw:{%x+}:)led:(.*)$')
  redis.call('SADD', tag .. 'leds', ledger)
end
if arg.due_ms == '' then
  redis.call('ZREM', KEYS[4], arg.id)
else
  redis.call('ZADD', KEYS[4], arg.due_ms, arg.id)
end
if arg.line ~= '' then
  -- A full line loses from its middle: how the task was submitted and how it ended are the
  -- two ends somebody will ask about. Entries are unique (each has its version).
  if redis.call('LLEN', KEYS[2]) >= tonumber(arg.most_lines) then
    local middle = redis.call('LINDEX', KEYS[2], math.floor(tonumber(arg.most_lines) / 2))
    redis.call('LREM', KEYS[2], 1, middle)
  end
  redis.call('RPUSH', KEYS[2], arg.line)
end
if is_refused then
  redis.call('ZREM', KEYS[3], arg.id)
  redis.call('ZREM', tag .. 'made', arg.id)
  redis.call('ZREM', tag .. 'mine:' .. token, arg.id)
  local mine = tag .. 'refused:of:' .. token
  redis.call('RPUSH', mine, arg.id)
  redis.call('PEXPIRE', mine, arg.life_ms)
  while redis.call('LLEN', mine) > 64 do
    local oldest = redis.call('LPOP', mine)
    redis.call('DEL', tag .. 'task:' .. oldest, tag .. 'line:' .. oldest)
  end
end
if arg.frees ~= '0' then
  if KEYS[5] ~= KEYS[1] and redis.call('GET', KEYS[5]) == arg.id then
    redis.call('DEL', KEYS[5])
  end
  if KEYS[6] ~= KEYS[1] then
    local known = redis.call('GET', KEYS[6])
    if known and string.match(known, '^%S+') == arg.id then
      redis.call('DEL', KEYS[6])
    end
  end
  if KEYS[7] ~= KEYS[1] then
    for _, entry in ipairs(redis.call('LRANGE', KEYS[7], 0, -1)) do
      if string.match(entry, '^%S+') == arg.id then
        redis.call('LREM', KEYS[7], 1, entry)
      end
    end
  end
end
if arg.hook ~= '' then
  redis.call('ZADD', KEYS[8], arg.now_ms, arg.hook)
  redis.call('HSET', KEYS[9], 'v', 1, 'doc', arg.hook_document)
  redis.call('PUBLISH', arg.channel, 'hook|' .. arg.hook .. '|1')
end
if arg.life_ms ~= '' then
  for _, key in ipairs({KEYS[1], KEYS[2], KEYS[5]}) do
    -- Once: a later change of a finished task (its deletion) does not prolong its life.
    -- (PEXPIRE … NX would say so, but needs Redis 7.)
    if redis.call('PTTL', key) == -1 then
      redis.call('PEXPIRE', key, arg.life_ms)
    end
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', '(' .. arg.oldest_ms)
  redis.call('ZREMRANGEBYSCORE', tag .. 'mine:' .. token, '-inf', '(' .. arg.oldest_ms)
  -- Whom it leaves behind when it is gone: `sweep` takes it out of their indexes then.
  if not is_refused then
    local left = arg.id .. '|' .. token .. ' ' .. owner
    redis.call('ZADD', tag .. 'end', 'NX', arg.now_ms + arg.life_ms, left)
  end
end
redis.call('PUBLISH', arg.channel, arg.message)
return 1
