-- Lease what is due: nobody else is handed these ids before the lease ends.
-- KEYS  1 due
-- ARGV  1 now_ms  2 ms when the lease ends  3 how many
-- Returns the ids, longest overdue first.

local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, id in ipairs(ids) do
  redis.call('ZADD', KEYS[1], ARGV[2], id)
end
return ids
