-- Renews the lease of entries that the consumer owns; never takes back what somebody else owns by now.
-- KEYS: the stream. ARGV: group, consumer, ids.
-- Answers for each id: 1 renewed, 0 nobody owns it, -1 somebody else does.
local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local results, own = {}, {}
for index = 3, #ARGV do
  local id = ARGV[index]
  local found = redis.call('XPENDING', stream, group, id, id, 1)[1]
  if not found then
    results[#results + 1] = 0
  elseif found[2] ~= consumer then
    results[#results + 1] = -1
  else
    own[#own + 1] = id
    results[#results + 1] = 1
  end
end
for first = 1, #own, 1000 do
  local arguments = {stream, group, consumer, 0}
  for index = first, math.min(first + 999, #own) do arguments[#arguments + 1] = own[index] end
  arguments[#arguments + 1] = 'JUSTID'
  redis.call('XCLAIM', unpack(arguments))
end
return results
