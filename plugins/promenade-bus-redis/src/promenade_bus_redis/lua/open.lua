-- Makes a group on a stream, and notes what is not its affair: what was removed before. Not where somebody else uses
-- the key for the latter: losses could not be counted.
-- KEYS: the stream, what groups have settled, the count of what the bus has trimmed, and the counts of losses. ARGV:
-- group, "0" to begin with what is there, or "$" with what comes, topic, "1" when the group was owed the topic before
-- anything was stored there.
-- Answers how many entries somebody else has removed that were its affair.
local stream, settled, counter, losses = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, start, topic, is_new = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local known = redis.pcall('HGET', settled, group)
if type(known) == 'table' and known.err then return known end
local made = redis.pcall('XGROUP', 'CREATE', stream, group, start, 'MKSTREAM')
if type(made) == 'table' and made.err then return made end
local info = facts_of(redis.call('XINFO', 'STREAM', stream))
local added = info['entries-added']
if not added then return 0 end
if start == '$' then
  note(settled, group, added)
  return 0
end
local removed = added - tonumber(info['length'])
local before = is_new == '1' and tonumber(redis.call('GET', counter) or 0) or removed
return count_unmade(settled, losses, topic, group, removed, before)
