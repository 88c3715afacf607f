-- Write a new task, all of it or nothing.
-- KEYS  1 task  2 line  3 owner index  4 due  5 alias  6 idempotency key  7 recent submits
--       (5, 6 and 7 repeat 1 where the request has none)
-- ARGV  1 id  2 created_ms  3 due_ms  4 line entry  5 channel  6 message
--       7 fingerprint  8 retries the client announces  9 ms a key is kept  10 ms a submit counts
--       as recent  11 most recent submits kept  12… fields of the hash
-- Returns nil when written, else {why, id}: same, replay, mismatch, retry, alias.

-- The same reservation twice: its answer was lost and the caller asked again. The task may
-- have moved on since, so it is left alone.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return {'same', ARGV[1]}
end
if KEYS[6] ~= KEYS[1] then
  local known = redis.call('GET', KEYS[6])
  if known then
    local id, fingerprint = string.match(known, '^(%S+) (%S+)$')
    return {fingerprint == ARGV[7] and 'replay' or 'mismatch', id}
  end
elseif KEYS[7] ~= KEYS[1] and tonumber(ARGV[8]) > 0 then
  -- The oldest of the same submits that has served fewer retries than this one announces: two
  -- creates meant as two keep one retry each, whichever comes first.
  for place, entry in ipairs(redis.call('LRANGE', KEYS[7], 0, -1)) do
    local id, at, served = string.match(entry, '^(%S+) (%d+) (%d+)$')
    if tonumber(at) > ARGV[2] - ARGV[10] and tonumber(served) < tonumber(ARGV[8]) then
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
  redis.call('SET', KEYS[5], ARGV[1])
end
if KEYS[6] ~= KEYS[1] then
  redis.call('SET', KEYS[6], ARGV[1] .. ' ' .. ARGV[7], 'PX', ARGV[9])
elseif KEYS[7] ~= KEYS[1] then
  redis.call('RPUSH', KEYS[7], ARGV[1] .. ' ' .. ARGV[2] .. ' 0')
  redis.call('LTRIM', KEYS[7], -tonumber(ARGV[11]), -1)
  redis.call('PEXPIRE', KEYS[7], ARGV[10])
end
redis.call('HSET', KEYS[1], unpack(ARGV, 12))
redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
redis.call('ZADD', KEYS[4], ARGV[3], ARGV[1])
redis.call('RPUSH', KEYS[2], ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return false
