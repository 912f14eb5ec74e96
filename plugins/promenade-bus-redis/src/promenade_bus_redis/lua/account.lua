-- What those scripts begin with that count losses. An entry that was ever added to a stream is, for a group,
-- settled, pending, unread or lost. How many are settled, or counted as lost, is kept in a hash: whatever removes
-- a pending entry writes it down in the same step. So what was lost can be told whoever removed entries, and
-- however far the group has read since.

-- What is kept begins here: a number below is one of a group that nobody has begun to count, of which all that is
-- gone is taken for settled. So nobody who settles has to ask.
local begin = 2 ^ 50

local function noted_of(settled, group)
  local noted = tonumber(redis.call('HGET', settled, group))
  return noted and noted >= begin and noted - begin or nil
end

local function note(settled, group, count)
  redis.pcall('HSET', settled, group, string.format('%.0f', begin + count))
end

-- Entries are not pending any more. It must not seem to have failed because somebody else uses the key.
local function settle(settled, group, count) redis.pcall('HINCRBY', settled, group, count) end

-- Counts as lost what is neither of the others, and returns how many; nil where that cannot be told now: before
-- 7.0, while a group is in the middle of the stream, or without memory for it.
local function count_missing(stream, settled, losses, topic, info, group)
  local added, length = info['entries-added'], tonumber(info['length'])
  if not added then return nil end
  local name, delivered, unread = group['name'], group['last-delivered-id'], 0
  if length > 0 and is_after(info['last-entry'][1], delivered) then
    if not is_after(info['first-entry'][1], delivered) then return nil end
    unread = length
  end
  local due = added - tonumber(group['pending']) - unread
  local noted = noted_of(settled, name)
  local lost = noted and math.max(0, due - noted) or 0
  if lost > 0 then
    local counted = redis.pcall('HINCRBY', losses, topic .. ' ' .. name, string.format('%.0f', lost))
    if type(counted) == 'table' and counted.err then return nil end
    -- The server tells how far behind a group is, which has done with what is gone.
    redis.call('XGROUP', 'SETID', stream, name, delivered, 'ENTRIESREAD', string.format('%.0f', added - unread))
  end
  if noted ~= due then note(settled, name, due) end
  return lost
end

-- The same for a group that is owed a topic and not made yet: what was removed since it was last looked at, or, when
-- it never was, beyond what is not its affair.
local function count_unmade(settled, losses, topic, name, removed, before)
  local noted = noted_of(settled, name)
  local lost = math.max(0, removed - (noted or before))
  if lost > 0 then
    local counted = redis.pcall('HINCRBY', losses, topic .. ' ' .. name, string.format('%.0f', lost))
    if type(counted) == 'table' and counted.err then return 0 end
  end
  if noted ~= removed then note(settled, name, removed) end
  return lost
end

