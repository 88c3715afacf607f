-- Note that a submit was refused.
-- KEYS  1 the latest refusals of the shard  2 how many there were on a day
-- ARGV  1 refusal  2 most refusals kept  3 ms the list is kept  4 reason  5 ms the counts are kept

redis.call('LPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], 0, ARGV[2] - 1)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('HINCRBY', KEYS[2], ARGV[4], 1)
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return 1
