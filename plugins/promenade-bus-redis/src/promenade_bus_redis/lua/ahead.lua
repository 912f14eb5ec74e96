-- How many entries of a stream come after a given one.
-- KEYS: the stream. ARGV: the entry to begin after, how many entries to count at once.
-- Answers: the number, and the id to go on counting from, or "" at the end.
local limit = tonumber(ARGV[2])
local ahead = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', limit)
if #ahead < limit then return {#ahead, ''} end
return {#ahead, ahead[#ahead][1]}
