-- Counts, for one group, what was removed from streams before it had read it, or while it was pending.
-- KEYS: for each stream: the stream, the count of what the bus has trimmed, what groups have settled, and the
-- counts of losses. ARGV: the group, and for each stream its topic, and how many entries somebody else had removed
-- when all was last accounted for, or "".
-- Answers for each stream: how many entries were lost since then, and how many somebody else has removed so far,
-- or "" while that cannot be accounted for; -1 and -1 where the server does not know how many were ever added
-- (before 7.0). Groups are looked at only when somebody else has removed something: with many of them that takes
-- long.
local function count(stream, counter, settled, losses, topic, known)
  if redis.call('EXISTS', stream) == 0 then return {0, ''} end
  local info = facts_of(redis.call('XINFO', 'STREAM', stream))
  if not info['entries-added'] then return {-1, -1} end
  local foreign = info['entries-added'] - tonumber(info['length']) - tonumber(redis.call('GET', counter) or 0)
  if foreign == (tonumber(known) or 0) then return {0, foreign} end
  for _, each in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = facts_of(each)
    if group['name'] == ARGV[1] then
      local lost = count_missing(stream, settled, losses, topic, info, group)
      if lost then return {lost, foreign} end
    end
  end
  return {0, ''}
end

local results = {}
for index = 0, #KEYS / 4 - 1 do
  local key, argument = 4 * index, 2 * index + 1
  results[index + 1] =
    count(KEYS[key + 1], KEYS[key + 2], KEYS[key + 3], KEYS[key + 4], ARGV[argument + 1], ARGV[argument + 2])
end
return results
