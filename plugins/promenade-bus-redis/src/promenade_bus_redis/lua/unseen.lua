-- Which groups nobody has wanted for a while.
-- KEYS: when groups were last wanted. ARGV: that while in milliseconds.
-- Answers: for each of them its name, and for how many milliseconds.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local bound = string.format('%.0f', now - tonumber(ARGV[1]))
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', bound, 'WITHSCORES')
for index = 2, #found, 2 do found[index] = string.format('%.0f', now - tonumber(found[index])) end
return found
