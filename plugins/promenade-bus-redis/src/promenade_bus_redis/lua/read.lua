-- Reads for a group without waiting, from one stream after the other until there are enough entries; tells how
-- far the streams go that have no more, so that a wait for more can begin there.
-- KEYS: the streams, and the fence of the first one. ARGV: group, consumer, how many entries in all, token of
-- the active instance (ordered groups; else empty).
-- Answers: what XREADGROUP does, and for each stream its last id, or "" where there may be more. Or "fenced"
-- and the token of another instance that was active since.
local streams, room = #KEYS - 1, tonumber(ARGV[3])
local refused = ARGV[4] ~= '' and fenced(KEYS[#KEYS], ARGV[4])
if refused then return refused end
local found, last = {}, {}
local failure
for index = 1, streams do
  last[index] = ''
  if room > 0 and not failure then
    local key = KEYS[index]
    local reply = redis.pcall('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', room, 'STREAMS', key, '>')
    if type(reply) == 'table' and reply.err then
      failure = reply
    else
      local entries = reply and reply[1][2] or {}
      if #entries > 0 then found[#found + 1] = reply[1] end
      room = room - #entries
      if room > 0 then
        if #entries > 0 then
          last[index] = entries[#entries][1]
        else
          last[index] = last_id_of(key)
        end
      end
    end
  end
end
-- What was read belongs to the consumer by now: it has to hear of it, and the next read of what went wrong.
if failure and #found == 0 then return failure end
return {found, last}
