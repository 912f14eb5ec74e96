-- Adds to the counts of losses what an instance has counted, once, however often it is told.
-- KEYS: the counts of losses, what instances have told. ARGV: instance, number of what it tells, after how many
-- milliseconds that is forgotten, and then a name and a count for each.
local last = redis.call('HGET', KEYS[2], ARGV[1])
if last and tonumber(last) >= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
for index = 4, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[index], ARGV[index + 1]) end
return 1
