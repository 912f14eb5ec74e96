-- Counts, for one group, what was removed from streams before it had read it.
-- KEYS: for each stream: the stream, and the count of what the bus has trimmed. ARGV: the group, and for each
-- stream how many entries somebody else had removed when it was last asked, or "".
-- Answers for each stream: how many entries were lost since then, and how many somebody else has removed so far;
-- -1 and -1 where the server does not know how many were ever added (before 7.0).
-- What was removed between where the group stands and what is there now, it has not read. Its count of what it
-- has read is set to the head of the stream, so that the same is not counted twice. Groups are looked at only
-- when somebody else has removed something: with many of them that takes long.
local function count(stream, counter, known)
  if redis.call('EXISTS', stream) == 0 then return {0, 0} end
  local info = facts_of(redis.call('XINFO', 'STREAM', stream))
  local added, last = info['entries-added'], info['last-generated-id']
  if not added then return {-1, -1} end
  local removed = added - tonumber(info['length'])
  local foreign = removed - tonumber(redis.call('GET', counter) or 0)
  if foreign == (tonumber(known) or 0) then return {0, foreign} end
  local first = info['first-entry'] and info['first-entry'][1]
  for _, each in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = facts_of(each)
    if group['name'] == ARGV[1] then
      local position, delivered = group['entries-read'], group['last-delivered-id']
      local head, lost = nil, 0
      if not position then
        if delivered == '0-0' then
          head = removed
          if known ~= '' then lost = math.max(0, foreign - tonumber(known)) end
        elseif delivered == last then
          head = added
        end
      elseif is_after(last, delivered) and (not first or is_after(first, delivered)) and removed > position then
        head, lost = removed, removed - position
      end
      if head then redis.call('XGROUP', 'SETID', stream, ARGV[1], delivered, 'ENTRIESREAD', head) end
      return {lost, foreign}
    end
  end
  return {0, foreign}
end

local results = {}
for index = 1, #KEYS, 2 do
  results[#results + 1] = count(KEYS[index], KEYS[index + 1], ARGV[1 + (index + 1) / 2])
end
return results
