-- Makes an instance the active one, unless another one is.
-- KEYS: the lock. ARGV: lease in milliseconds, a token that is known to be taken already, or 0.
-- Answers: the token, which is greater than every one before, or "".
if redis.call('GET', KEYS[1]) then return '' end
local time = redis.call('TIME')
local token = tonumber(time[1]) * 1000000 + tonumber(time[2])
if token <= tonumber(ARGV[2]) then token = tonumber(ARGV[2]) + 1 end
token = string.format('%.0f', token)
-- Of a server whose memory is full only those take a write that have just removed something.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], token, 'PX', ARGV[1])
return token
