-- Says that an instance lives, and asks who does not any more.
-- KEYS: instances. ARGV: the instance, its lease in milliseconds, how long to remember the dead.
-- Answers: the names of those whose lease has ended.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - tonumber(ARGV[3])))
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
