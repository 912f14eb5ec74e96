-- Takes a key for an owner for some time, unless it is marked or another owner has it.
-- KEYS: the key. ARGV: the owner, the time in milliseconds.
-- Answers 1 if the owner has it, 0 if another one has it, -1 if it is marked.
local held = redis.call('GET', KEYS[1])
if held == 'marked' then return -1 end
if held and held ~= 'claim ' .. ARGV[1] then return 0 end
redis.call('SET', KEYS[1], 'claim ' .. ARGV[1], 'PX', ARGV[2])
return 1
