-- Reads streams without a group, and tells what is needed to see that something was trimmed unread.
-- KEYS: the streams, and for each of them the count of what the bus itself has trimmed.
-- ARGV: how many, and for each stream the entry to begin after.
-- Answers: what XREAD does, and for each stream: how many entries were ever added (-1 where the server does
-- not know), how many there are, and how many the bus has trimmed.
local streams = #KEYS / 2
local facts = {}
for index = 1, streams do
  facts[index] = {0, 0, 0}
  if redis.call('EXISTS', KEYS[index]) == 1 then
    local added, length = -1, 0
    local info = redis.call('XINFO', 'STREAM', KEYS[index])
    for place = 1, #info, 2 do
      if info[place] == 'entries-added' then added = info[place + 1] end
      if info[place] == 'length' then length = info[place + 1] end
    end
    facts[index] = {added, length, tonumber(redis.call('GET', KEYS[streams + index]) or 0)}
  end
end
local arguments = {'COUNT', ARGV[1], 'STREAMS'}
for index = 1, streams do arguments[#arguments + 1] = KEYS[index] end
for index = 1, streams do arguments[#arguments + 1] = ARGV[1 + index] end
return {redis.call('XREAD', unpack(arguments)), facts}
