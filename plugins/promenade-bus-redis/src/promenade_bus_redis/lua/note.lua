-- Writes down the attempts of entries that the consumer owns, so that they survive it, and leaves the entries
-- where they are, in their order. They may be let go of: then they belong to "~" until another instance takes
-- them over.
-- KEYS: the stream, notes, what groups have settled, the counts of losses. ARGV: group, consumer, prefix of notes
-- ("" for the stream of the topic itself), whom they belong to afterwards ("" for the consumer), topic, and then
-- for each entry: id, state.
-- Answers for each id: 1 done, 0 nobody owns it, -1 somebody else does, 2 it is gone from the
-- stream, and lost.
local results = {}
for index = 6, #ARGV, 2 do
  local id = ARGV[index]
  local found = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
  if not found then
    results[#results + 1] = 0
  elseif found[2] ~= ARGV[2] then
    results[#results + 1] = -1
  else
    redis.call('HSET', KEYS[2], ARGV[3] .. id, ARGV[index + 1])
    local done = 1
    if ARGV[4] ~= '' and #redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[4], 0, id, 'JUSTID') == 0 then
      redis.call('HDEL', KEYS[2], ARGV[3] .. id)
      if ARGV[3] == '' then settle(KEYS[3], ARGV[1], 1) end
      redis.call('HINCRBY', KEYS[4], ARGV[5] .. ' ' .. ARGV[1], 1)
      done = 2
    end
    results[#results + 1] = done
  end
end
return results
