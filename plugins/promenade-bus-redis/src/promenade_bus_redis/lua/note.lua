-- Writes down the attempts of entries that the consumer owns, so that they survive it, and leaves the entries
-- where they are, in their order. They may be let go of: then they belong to "~" until another instance takes
-- them over.
-- KEYS: the stream, notes. ARGV: group, consumer, prefix of notes, whom they belong to afterwards ("" for the
-- consumer), and then for each entry: id, state.
-- Answers for each id: 1 done, 0 nobody owns it, -1 somebody else does.
local results = {}
for index = 5, #ARGV, 2 do
  local id = ARGV[index]
  local found = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
  if not found then
    results[#results + 1] = 0
  elseif found[2] ~= ARGV[2] then
    results[#results + 1] = -1
  else
    redis.call('HSET', KEYS[2], ARGV[3] .. id, ARGV[index + 1])
    if ARGV[4] ~= '' then redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[4], 0, id, 'JUSTID') end
    results[#results + 1] = 1
  end
end
return results
