-- Removes what every group of a topic has settled and what is old enough, some at once; and counts what was
-- removed before a group had read it, by whomever.
-- KEYS: the stream, the count of what the bus has trimmed, the fence, what groups have settled, and the counts of
-- losses. ARGV: token of the instance whose turn it is, the ids from which on settled entries are too young, and
-- those of a topic without groups (both as bound_of reads it), the hard cap or 0, how many entries to remove at
-- once, how many to drop at once, the topic, "1" when it is new, and so younger than who is owed it, groups that must
-- be there.
-- Answers: how many were removed, how many of them because of the cap, whether there is more to do, the last
-- id, how many entries somebody else has removed so far (-1 where the server does not know), a group and a number
-- for each group that lost unread entries, groups that are there and not among those that must be, and the
-- server's time in milliseconds. Or "fenced" and the token of another instance.
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
local stream, counter, fence, settled, losses = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local token, cap, at_once, topic = ARGV[1], tonumber(ARGV[4]), tonumber(ARGV[6]), ARGV[7]
local refused = fenced(fence, token)
if refused then return refused end
if redis.call('EXISTS', stream) == 0 then return {0, 0, 0, '0-0', -1, {}, {}, now} end

local info = facts_of(redis.call('XINFO', 'STREAM', stream))
local length, last, added = tonumber(info['length']), info['last-generated-id'], info['entries-added']
local first = info['first-entry'] and info['first-entry'][1]
local groups, lost, missing, strangers = {}, {}, {}, {}
for index = 9, #ARGV do missing[ARGV[index]] = true end
for _, each in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local group = facts_of(each)
  if not missing[group['name']] then strangers[#strangers + 1] = group['name'] end
  missing[group['name']] = nil
  groups[#groups + 1] = group
end

for _, group in ipairs(groups) do
  local count = count_missing(stream, settled, losses, topic, info, group)
  if count and count > 0 then
    lost[#lost + 1] = group['name']
    lost[#lost + 1] = count
  end
end

local trimmed = tonumber(redis.call('GET', counter) or 0)
if added then
  local gone = added - length
  for name in pairs(missing) do
    local count = count_unmade(settled, losses, topic, name, gone, ARGV[8] == '1' and trimmed or gone)
    if count > 0 then
      lost[#lost + 1] = name
      lost[#lost + 1] = count
    end
  end
end

-- What the cap takes from a group: counted when it is gone, for that needs memory.
local function lose(name, count)
  lost[#lost + 1] = name
  lost[#lost + 1] = count
  redis.call('HINCRBY', losses, topic .. ' ' .. name, count)
end

local removed, dropped, more = 0, 0, 0
if first then
  local spans = ARGV[2]
  if #groups == 0 then spans = ARGV[3] end
  local bound = bound_of(spans, first)
  for _, group in ipairs(groups) do
    local settled = group['last-delivered-id']
    local moment, number = string.match(settled, '^(%d+)-(%d+)$')
    -- Its own last entry may go as well, unless its number is one that Lua cannot add to.
    if #number < 15 then settled = moment .. '-' .. string.format('%.0f', tonumber(number) + 1) end
    if is_after(bound, settled) then bound = settled end
    if tonumber(group['pending']) > 0 then
      local lowest = redis.call('XPENDING', stream, group['name'])[2]
      if lowest and is_after(bound, lowest) then bound = lowest end
    end
  end
  if next(missing) == nil and is_after(bound, first) then
    -- Whole nodes cost next to nothing; what is left below the bound is in a single one.
    removed = redis.call('XTRIM', stream, 'MINID', '~', bound, 'LIMIT', ARGV[5])
    if removed > 0 then
      more = 1
    else
      removed = redis.call('XTRIM', stream, 'MINID', bound)
    end
  end
  length = length - removed
  if cap > 0 and length > cap then
    local dropping, bytes, from = {}, 0, '-'
    local most = math.min(at_once, length - cap)
    while #dropping < most and bytes < 1000000 do
      for _, entry in ipairs(redis.call('XRANGE', stream, from, '+', 'COUNT', math.min(10, most - #dropping))) do
        dropping[#dropping + 1] = entry
        for _, value in ipairs(entry[2]) do bytes = bytes + #value end
      end
      from = '(' .. dropping[#dropping][1]
    end
    dropped = redis.call('XTRIM', stream, 'MAXLEN', length - #dropping)
    for _, group in ipairs(groups) do
      local count = 0
      for _, entry in ipairs(dropping) do
        if is_after(entry[1], group['last-delivered-id']) then count = count + 1 end
      end
      -- What is pending may still be handled; when it cannot, its owner finds it gone, and counts it.
      if count > 0 then
        lose(group['name'], count)
        settle(settled, group['name'], count)
        if group['entries-read'] then
          local position = string.format('%.0f', group['entries-read'] + count)
          redis.call('XGROUP', 'SETID', stream, group['name'], group['last-delivered-id'], 'ENTRIESREAD', position)
        end
      end
    end
    for name in pairs(missing) do
      lose(name, #dropping)
      settle(settled, name, #dropping)
    end
    length = length - dropped
    if length > cap then more = 1 end
  end
end
if removed + dropped > 0 then
  trimmed = trimmed + removed + dropped
  redis.call('SET', counter, string.format('%.0f', trimmed))
end
local foreign = -1
if added then foreign = added - length - trimmed end
return {removed + dropped, dropped, more, last, foreign, lost, strangers, now}
