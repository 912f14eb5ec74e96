-- Says that an instance lives: counts up its heartbeat, and tells whose has not been counted up for a while.
-- KEYS: heartbeats. ARGV: the instance, its last heartbeat or "", the heartbeat before which others are told
-- of, or "" for all; and then instances to forget, each with the heartbeat that it stopped at.
-- A heartbeat is greater than all before, of whomever. It is about the server's time in milliseconds: that is
-- for people to see, and for nothing else.
-- Answers: the heartbeat, the server's time, when an instance last left, and the others with their heartbeats.
local beats, name = KEYS[1], ARGV[1]
local time = redis.call('TIME')
for index = 4, #ARGV, 2 do
  if redis.call('ZSCORE', beats, ARGV[index]) == ARGV[index + 1] then redis.call('ZREM', beats, ARGV[index]) end
end
local last = tonumber(redis.call('ZREVRANGE', beats, 0, 0, 'WITHSCORES')[2]) or 0
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local beat = string.format('%.0f', math.max(now, last + 1, (tonumber(ARGV[2]) or 0) + 1))
redis.call('ZADD', beats, beat, name)
local bound = ARGV[3]
if bound == '' then bound = beat end
local late = redis.call('ZRANGEBYSCORE', beats, '-inf', '(' .. bound, 'WITHSCORES')
return {beat, time[1], time[2], redis.call('ZSCORE', beats, ':left') or '', late}
