-- Counts what groups of one topic have not settled: what nobody has read, what is pending, what came back, what
-- is parked. Many groups go in one call, because the server describes all groups of a stream or none.
-- KEYS: the stream, and for each group: its inbox, and what it has parked. ARGV: how many entries to count at
-- once, and the groups.
-- Answers for each group: the number, and the id to go on counting from, or "" at the end.
local stream, left = KEYS[1], tonumber(ARGV[1])
local length = redis.call('XLEN', stream)
local groups = {}
if redis.call('EXISTS', stream) == 1 then
  for _, each in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = facts_of(each)
    groups[group['name']] = group
  end
end

local counted = {}
local function count_once(id)
  if counted[id] then return counted[id] end
  if left <= 0 then return {0, id} end
  local unread, following = count_after(stream, id, left)
  left = left - unread
  counted[id] = {unread, following}
  return counted[id]
end

local function unread_by(group)
  -- The group will be made at the beginning.
  if not group then return {length, ''} end
  -- Before 7.0 there is no lag, and later on it is not always known.
  if not group['lag'] then return count_once(group['last-delivered-id']) end
  -- Of a group that stands before the first entry it may be a count of what is not there any more (Valkey).
  return {math.min(tonumber(group['lag']), length), ''}
end

-- Nothing of what somebody else has put in the place of a key is an event.
local function size_of(command, key)
  local size = redis.pcall(command, key)
  return type(size) == 'number' and size or 0
end

local answers = {}
for index = 2, #ARGV do
  local group = groups[ARGV[index]]
  local number, following = unpack(unread_by(group))
  if group then number = number + tonumber(group['pending']) end
  number = number + size_of('XLEN', KEYS[2 * index - 2]) + size_of('ZCARD', KEYS[2 * index - 1])
  answers[#answers + 1] = number
  answers[#answers + 1] = following
end
return answers
