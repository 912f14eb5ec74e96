-- Removes dead letters that nobody wants to keep any longer.
-- KEYS: the dead letters of a topic. ARGV: from when on they are too young, as bound_of reads it. Answers how many
-- were removed.
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if not oldest then return 0 end
return redis.call('XTRIM', KEYS[1], 'MINID', bound_of(ARGV[1], oldest[1]))
