-- Compare and set: the only way a task changes.
-- KEYS  1 task  2 line  3 owner index  4 due  5 alias (only when the client named the task)
-- ARGV  1 id  2 expected version  3 due_ms, '' = no longer due  4 line entry, '' = none
--       5 most line entries  6 channel  7 message
--       8 ms the keys live on, '' = the task is open  9 drop index entries created before (ms)
--       10… fields of the hash
-- Returns 1 when written, 0 when there is no such task, else the document that is there.

local version = redis.call('HGET', KEYS[1], 'v')
if not version then
  return 0
end
if version ~= ARGV[2] then
  return redis.call('HGET', KEYS[1], 'doc')
end
redis.call('HSET', KEYS[1], unpack(ARGV, 10))
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
if ARGV[8] ~= '' then
  for _, key in ipairs({KEYS[1], KEYS[2], KEYS[5]}) do
    -- Once: a later change of a finished task (its deletion) does not prolong its life.
    -- (PEXPIRE … NX would say so, but needs Redis 7.)
    if redis.call('PTTL', key) == -1 then
      redis.call('PEXPIRE', key, ARGV[8])
    end
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', '(' .. ARGV[9])
end
redis.call('PUBLISH', ARGV[6], ARGV[7])
return 1
