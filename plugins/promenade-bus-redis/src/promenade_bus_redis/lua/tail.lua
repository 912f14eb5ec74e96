-- Reads streams without a group, one after the other until there are enough entries, and tells what is needed to
-- see that something was trimmed unread.
-- KEYS: the streams, and for each of them the count of what the bus itself has trimmed.
-- ARGV: how many entries in all, and for each stream the entry to begin after.
-- Answers: what XREAD does, and for each stream: how many entries were ever added (-1 where the server does
-- not know), how many there are, and how many the bus has trimmed; or "" where it was not looked at.
local streams, room = #KEYS / 2, tonumber(ARGV[1])
local found, facts = {}, {}
for index = 1, streams do
  facts[index] = ''
  if room > 0 then
    facts[index] = {0, 0, 0}
    if redis.call('EXISTS', KEYS[index]) == 1 then
      local info = facts_of(redis.call('XINFO', 'STREAM', KEYS[index]))
      local trimmed = tonumber(redis.call('GET', KEYS[streams + index]) or 0)
      facts[index] = {info['entries-added'] or -1, info['length'], trimmed}
      local reply = redis.call('XREAD', 'COUNT', room, 'STREAMS', KEYS[index], ARGV[1 + index])
      if reply then
        found[#found + 1] = reply[1]
        room = room - #reply[1][2]
      end
    end
  end
end
return {found, facts}
