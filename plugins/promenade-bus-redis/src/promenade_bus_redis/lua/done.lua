-- Forgets entries for a group, those that are pending, whoever owns them. It is what each event costs: it begins
-- with nothing else, and does as "settle" of "account" does.
-- KEYS: the stream, what groups have settled. ARGV: group, ids. Answers how many there were.
local count = 0
for first = 2, #ARGV, 1000 do
  count = count + redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
if count > 0 then redis.pcall('HINCRBY', KEYS[2], ARGV[1], count) end
return count
