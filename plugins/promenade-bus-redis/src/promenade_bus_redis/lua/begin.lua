-- Says when the data of the server began, or which layout they have, unless that is known.
-- KEYS: the key that says so. ARGV: what to say. Answers: what it says.
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
