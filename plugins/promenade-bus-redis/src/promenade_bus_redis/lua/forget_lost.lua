-- Forgets entries that are pending for a group and gone from their stream, and counts them as lost.
-- KEYS: the stream, notes, what groups have settled, the counts of losses. ARGV: group, topic, prefix of notes
-- ("" for the stream of the topic itself), ids. Answers how many were lost.
local lost = 0
for index = 4, #ARGV do
  if redis.call('XACK', KEYS[1], ARGV[1], ARGV[index]) == 1 then
    redis.call('HDEL', KEYS[2], ARGV[3] .. ARGV[index])
    lost = lost + 1
  end
end
if lost > 0 then
  if ARGV[3] == '' then settle(KEYS[3], ARGV[1], lost) end
  redis.call('HINCRBY', KEYS[4], ARGV[2] .. ' ' .. ARGV[1], lost)
end
return lost
