-- Enters topics into the registry.
-- KEYS: the registry. ARGV: topics, not very many at once. Answers: how many are new.
return redis.call('SADD', KEYS[1], unpack(ARGV))
