-- Asks who owns entries, and changes nothing.
-- KEYS: the stream. ARGV: group, consumer, ids.
-- Answers for each id: 1 the consumer does, 0 nobody, -1 somebody else.
local results = {}
for index = 3, #ARGV do
  local found = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[index], ARGV[index], 1)[1]
  if not found then
    results[#results + 1] = 0
  elseif found[2] ~= ARGV[2] then
    results[#results + 1] = -1
  else
    results[#results + 1] = 1
  end
end
return results
