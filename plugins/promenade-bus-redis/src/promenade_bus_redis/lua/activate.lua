-- Makes an instance the active one, unless another one is.
-- KEYS: the lock. ARGV: who wants it, who has it and is dead ("" for nobody), a token that is known to be taken,
-- or 0.
-- Answers: the token, which is greater than every one before, or the same when it was the active one already;
-- and whoever is the active one instead.
local holder, token = redis.call('HGET', KEYS[1], 'holder'), tonumber(redis.call('HGET', KEYS[1], 'token')) or 0
local taken = tonumber(ARGV[3])
if holder and holder ~= ARGV[1] and holder ~= ARGV[2] then return {'', holder} end
if holder ~= ARGV[1] or token <= taken then
  token = math.max(token, taken) + 1
  redis.call('HSET', KEYS[1], 'token', string.format('%.0f', token), 'holder', ARGV[1])
end
return {string.format('%.0f', token), ''}
