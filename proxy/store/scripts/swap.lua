-- Compare and set: the only way a task changes.
-- KEYS  1 task  2 line  3 owner index  4 due  5 alias  6 idempotency key  7 recent submits
--       (5, 6 and 7 repeat 1 where the request had none)  8 hooks due  9 hook  10 ledger
--       11… the zsets of tasks in flight, then the balances, it was reserved with
-- ARGV  1 id  2 expected version  3 due_ms, '' = no longer due  4 line entry, '' = none
--       5 most line entries  6 channel  7 message
--       8 ms the keys live on, '' = the task is open  9 drop index entries created before (ms)
--       10 1 = it was never submitted: the names it took are free again  2 = it was refused: so
--       are they, and lists, counts and ledger forget it
--       11 hook name, '' = nobody is to be told  12 hook due_ms  13 hook document
--       14 how many zsets of tasks in flight  15 1 = it has ended: its places are free again
--       16 micro-units that were held  17 of them, how many it cost
--       18 how many ledger entries, then these, then the UTC day of its submit, how many counters
--       of that day's use, then for each its name and what is added, then fields of the hash
-- Returns 1 when written, 0 when there is no such task, else the document that is there.

local version = redis.call('HGET', KEYS[1], 'v')
if not version then
  return 0
end
if version ~= ARGV[2] then
  return redis.call('HGET', KEYS[1], 'doc')
end
local entries = tonumber(ARGV[18])
local at = 20 + entries
local counters = tonumber(ARGV[at])
redis.call('HSET', KEYS[1], unpack(ARGV, at + 1 + 2 * counters))
if counters > 0 then
  local use = string.match(KEYS[3], '^rw:{%x+}:') .. 'use:' .. ARGV[at - 1]
  for place = at + 1, at + 2 * counters, 2 do
    if redis.call('HINCRBY', use, ARGV[place], ARGV[place + 1]) <= 0 then
      redis.call('HDEL', use, ARGV[place])
    end
  end
  if redis.call('PTTL', use) == -1 then  -- of a task older than the counters
    redis.call('PEXPIRE', use, 100 * 24 * 3600 * 1000)
  end
end
if ARGV[15] == '1' then
  for place = 11, #KEYS do
    if place < 11 + tonumber(ARGV[14]) then
      redis.call('ZREM', KEYS[place], ARGV[1])
    elseif ARGV[16] ~= '0' then
      redis.call('HINCRBY', KEYS[place], 'held', '-' .. ARGV[16])
      redis.call('HINCRBY', KEYS[place], 'spent', ARGV[17])
    end
  end
end
local is_refused = ARGV[10] == '2'
local tag, owner = string.match(KEYS[3], '^(rw:{%x+}:)own:(.*)$')
local token = redis.call('HGET', KEYS[1], 'tok')
if is_refused and entries > 0 then
  -- Its hold is taken back with the entry about it: nothing was sold.
  local hold = redis.call('HGET', KEYS[1], 'hold')
  if hold then
    redis.call('XDEL', tag .. 'led:' .. owner .. ':' .. string.sub(ARGV[at - 1], 1, 6), hold)
    entries = 0
  end
end
for place = 19, 18 + entries do
  redis.call('XADD', KEYS[10], '*', 'entry', ARGV[place])
end
if entries > 0 then
  local tag, ledger = string.match(KEYS[10], '^(rw:{%x+}:)led:(.*)$')
  redis.call('SADD', tag .. 'leds', ledger)
end
if ARGV[3] == '' then
  redis.call('ZREM', KEYS[4], ARGV[1])
else
  redis.call('ZADD', KEYS[4], ARGV[3], ARGV[1])
end
if ARGV[4] ~= '' then
  -- A full line loses from its middle: how the task was submitted and how it ended are the
  -- two ends somebody will ask about. Entries are unique (each has its version).
  if redis.call('LLEN', KEYS[2]) >= tonumber(ARGV[5]) then
    local middle = redis.call('LINDEX', KEYS[2], math.floor(tonumber(ARGV[5]) / 2))
    redis.call('LREM', KEYS[2], 1, middle)
  end
  redis.call('RPUSH', KEYS[2], ARGV[4])
end
if is_refused then
  redis.call('ZREM', KEYS[3], ARGV[1])
  redis.call('ZREM', tag .. 'made', ARGV[1])
  redis.call('ZREM', tag .. 'mine:' .. token, ARGV[1])
  local mine = tag .. 'refused:of:' .. token
  redis.call('RPUSH', mine, ARGV[1])
  redis.call('PEXPIRE', mine, ARGV[8])
  while redis.call('LLEN', mine) > 64 do
    local oldest = redis.call('LPOP', mine)
    redis.call('DEL', tag .. 'task:' .. oldest, tag .. 'line:' .. oldest)
  end
end
if ARGV[10] ~= '0' then
  if KEYS[5] ~= KEYS[1] and redis.call('GET', KEYS[5]) == ARGV[1] then
    redis.call('DEL', KEYS[5])
  end
  if KEYS[6] ~= KEYS[1] then
    local known = redis.call('GET', KEYS[6])
    if known and string.match(known, '^%S+') == ARGV[1] then
      redis.call('DEL', KEYS[6])
    end
  end
  if KEYS[7] ~= KEYS[1] then
    for _, entry in ipairs(redis.call('LRANGE', KEYS[7], 0, -1)) do
      if string.match(entry, '^%S+') == ARGV[1] then
        redis.call('LREM', KEYS[7], 1, entry)
      end
    end
  end
end
if ARGV[11] ~= '' then
  redis.call('ZADD', KEYS[8], ARGV[12], ARGV[11])
  redis.call('HSET', KEYS[9], 'v', 1, 'doc', ARGV[13])
  redis.call('PUBLISH', ARGV[6], 'hook|' .. ARGV[11] .. '|1')
end
if ARGV[8] ~= '' then
  for _, key in ipairs({KEYS[1], KEYS[2], KEYS[5]}) do
    -- Once: a later change of a finished task (its deletion) does not prolong its life.
    -- (PEXPIRE … NX would say so, but needs Redis 7.)
    if redis.call('PTTL', key) == -1 then
      redis.call('PEXPIRE', key, ARGV[8])
    end
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', '(' .. ARGV[9])
  redis.call('ZREMRANGEBYSCORE', tag .. 'mine:' .. token, '-inf', '(' .. ARGV[9])
  -- Whom it leaves behind when it is gone: `sweep` takes it out of their indexes then.
  if not is_refused then
    local left = ARGV[1] .. '|' .. token .. ' ' .. owner
    redis.call('ZADD', tag .. 'end', 'NX', ARGV[12] + ARGV[8], left)
  end
end
redis.call('PUBLISH', ARGV[6], ARGV[7])
return 1
