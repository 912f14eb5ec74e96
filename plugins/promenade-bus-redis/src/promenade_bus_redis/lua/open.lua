-- Makes a group on a stream, and notes what is not its affair: what was removed before. Not where somebody else uses
-- the key for the latter: losses could not be counted.
-- KEYS: the stream, what groups have settled. ARGV: group, "0" to begin with what is there, or "$" with what comes.
local known = redis.pcall('HGET', KEYS[2], ARGV[1])
if type(known) == 'table' and known.err then return known end
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[2], 'MKSTREAM')
if type(made) == 'table' and made.err then return made end
local info = facts_of(redis.call('XINFO', 'STREAM', KEYS[1]))
local added = info['entries-added']
if added then
  if ARGV[2] == '0' then added = added - tonumber(info['length']) end
  note(KEYS[2], ARGV[1], added)
end
return made
