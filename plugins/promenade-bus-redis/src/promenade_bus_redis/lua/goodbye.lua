-- An instance leaves in good order. KEYS: heartbeats. ARGV: the instance.
local last = tonumber(redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]) or 0
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], string.format('%.0f', last + 1), ':left')
return 1
