-- Lets a consumer leave its group.
-- KEYS: the stream, notes, what groups have settled, the counts of losses. ARGV: group, the consumer, whom that
-- belongs to which it holds still, or "" when it stays in that case, topic, prefix of notes ("" for the stream of
-- the topic itself).
-- Answers: how many entries of what it held are gone from the stream, and so lost, or -1 when it stays.
local stream, group, consumer, heir, topic, prefix = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local gone = 0
while true do
  local pending = redis.call('XPENDING', stream, group, '-', '+', 100, consumer)
  if #pending == 0 then break end
  if heir == '' then return -1 end
  local arguments = {stream, group, heir, 0}
  for _, entry in ipairs(pending) do arguments[#arguments + 1] = entry[1] end
  arguments[#arguments + 1] = 'JUSTID'
  local left = {}
  for _, id in ipairs(redis.call('XCLAIM', unpack(arguments))) do left[id] = true end
  for _, entry in ipairs(pending) do
    if not left[entry[1]] then
      gone = gone + 1
      redis.call('HDEL', KEYS[2], prefix .. entry[1])
    end
  end
end
if gone > 0 then
  if prefix == '' then settle(KEYS[3], group, gone) end
  redis.call('HINCRBY', KEYS[4], topic .. ' ' .. group, gone)
end
redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer)
return gone
