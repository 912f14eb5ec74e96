-- Ends the claim of an owner, if it has one.
-- KEYS: the key. ARGV: the owner.
if redis.call('GET', KEYS[1]) ~= 'claim ' .. ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
