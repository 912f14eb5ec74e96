-- Makes a group of a stream that nobody else reads, and the stream where it is missing.
-- KEYS: the stream. ARGV: the group. Answers as XGROUP CREATE does.
return redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
