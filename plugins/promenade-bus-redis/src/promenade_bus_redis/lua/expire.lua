-- Removes dead letters that nobody wants to keep any longer.
-- KEYS: the dead letters of a topic. ARGV: how long they stay, as bound_of reads it. Answers how many were removed.
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if not oldest then return 0 end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
return redis.call('XTRIM', KEYS[1], 'MINID', bound_of(ARGV[1], oldest[1], now))
