-- Hands on what is parked and due.
-- KEYS: parked, the inbox. ARGV: how many at most. Answers: how many were handed on, and when the next one
-- is due, in milliseconds from now, or -1.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local members = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[1])
for _, member in ipairs(members) do
  redis.call('XADD', KEYS[2], '*', unpack(cmsgpack.unpack(member)[3]))
  redis.call('ZREM', KEYS[1], member)
end
local following = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if #following == 0 then return {#members, -1} end
return {#members, math.max(0, tonumber(following[2]) - now)}
