-- Forgets entries for a group, those that the consumer owns. For when its lease may have ended.
-- KEYS: the stream, notes, what groups have settled. ARGV: group, consumer, "1" to delete them from the stream as
-- well, which is one that nobody else reads, prefix of notes, ids. Answers for each id: 1 done, 0 nobody owns it, -1 somebody else does.
local stream, notes = KEYS[1], KEYS[2]
local group, consumer, delete, prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local results = {}
for index = 5, #ARGV do
  local id = ARGV[index]
  local found = redis.call('XPENDING', stream, group, id, id, 1)[1]
  if not found then
    results[#results + 1] = 0
  elseif found[2] ~= consumer then
    results[#results + 1] = -1
  else
    redis.call('XACK', stream, group, id)
    if delete == '1' then
      redis.call('XDEL', stream, id)
    else
      settle(KEYS[3], group, 1)
    end
    redis.call('HDEL', notes, prefix .. id)
    results[#results + 1] = 1
  end
end
return results
