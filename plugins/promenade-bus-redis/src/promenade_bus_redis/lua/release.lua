-- Ends that an instance is the active one, if it is. KEYS: the lock. ARGV: the instance.
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then return 0 end
return redis.call('HDEL', KEYS[1], 'holder')
