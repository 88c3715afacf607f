-- Admit one request within rates, all of them or none (GCRA: a bucket that empties evenly).
-- KEYS  one per rate
-- ARGV  1 now, µs  then for each rate how many a minute
-- Returns {0, then for each how many are left and µs until all are} when admitted, else
-- {which rate, µs until it has room, µs until all of it is left}.

local now, window = tonumber(ARGV[1]), 60000000
local ahead = {}
for place = 1, #KEYS do
  local step = window / tonumber(ARGV[place + 1])
  local full_at = math.max(tonumber(redis.call('GET', KEYS[place]) or 0), now)
  if full_at - now > window - step then
    return {place, math.ceil(full_at - now - (window - step)), math.ceil(full_at - now)}
  end
  ahead[place] = full_at + step
end
local answer = {0}
for place = 1, #KEYS do
  redis.call('SET', KEYS[place], string.format('%.0f', ahead[place]), 'PX', 120000)
  local step = window / tonumber(ARGV[place + 1])
  answer[2 * place] = math.floor((window - (ahead[place] - now)) / step)
  answer[2 * place + 1] = math.ceil(ahead[place] - now)
end
return answer
