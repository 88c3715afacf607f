-- Where an owner's ledgers end and what its balances are, at one moment.
-- KEYS  the ledgers, then the balances
-- ARGV  1 how many ledgers
-- Returns for each ledger the id of its last entry ('' when it has none), for each balance
-- {held, spent}.

local answer = {}
for place = 1, #KEYS do
  if place <= tonumber(ARGV[1]) then
    local last = redis.call('XREVRANGE', KEYS[place], '+', '-', 'COUNT', 1)[1]
    answer[place] = last and last[1] or ''
  else
    local known = redis.call('HMGET', KEYS[place], 'held', 'spent')
    answer[place] = {known[1] or '0', known[2] or '0'}
  end
end
return answer
