-- Tells up to where a stream has what was stored in it up to some entry.
-- KEYS: the stream, the count of what the bus has trimmed. ARGV: the id of the entry.
-- Answers: the id of the last entry that is there up to that one, or was there before it was trimmed; 0-0 where
-- there is none.
local stream, counter, newest = KEYS[1], KEYS[2], ARGV[1]
if redis.call('EXISTS', stream) == 0 then return '0-0' end
local info = facts_of(redis.call('XINFO', 'STREAM', stream))
local last = info['last-generated-id']
if is_after(newest, last) then return last end
local found = redis.call('XREVRANGE', stream, newest, '-', 'COUNT', 1)[1]
if found then return found[1] end
-- Nothing is there up to that entry: all of it was trimmed, or has never been there.
local removed = tonumber(redis.call('GET', counter) or 0)
if info['entries-added'] then removed = info['entries-added'] - info['length'] end
if removed > 0 then return newest end
return '0-0'
