-- Lease what is due: nobody else is handed these ids before the lease ends.
-- KEYS  1 due
-- ARGV  1 now_ms  2 ms when the lease ends  3 how many
-- Returns id, ms since when it was due, id, …; longest overdue first.

local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[3])
for place = 1, #due, 2 do
  redis.call('ZADD', KEYS[1], ARGV[2], due[place])
end
return due
