-- Compare and set the standing of a credential or an upstream.
-- KEYS  1 standing
-- ARGV  1 expected document, '' = none  2 new document, '' = none  3 ms it is kept
-- Returns 1 when written, 0 when another is there.

if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
  return 0
end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1
