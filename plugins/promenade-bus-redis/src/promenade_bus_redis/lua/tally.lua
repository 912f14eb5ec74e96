-- How many dead letters of a topic have died of what: of those that a filter selects, by subscription, and by the
-- class and the place of the last error.
-- KEYS: the dead letters. ARGV: where to begin, as XRANGE takes it, the field that is told as the subscription, and
-- the filter.
-- Answers: of each group the subscription, the class, the place, how many, and when the first and the last died, in
-- microseconds; and where to go on, or "" at the end.
local from, bytes = ARGV[1], 0
local groups, found = {}, {}
local function answer(next)
  for _, group in ipairs(found) do
    group[5], group[6] = string.format('%.0f', group[5]), string.format('%.0f', group[6])
  end
  return {found, next}
end
while bytes < 4000000 do
  local part = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 10)
  for _, entry in ipairs(part) do
    local letter, size = read(entry[2])
    bytes = bytes + size
    from = '(' .. entry[1]
    if is_selected(letter) then
      local last = last_attempt(letter)
      local class = last and string.match(last[3], '^[^:;%s]*') or letter.reason or ''
      local place = last and last[4] or ''
      local died = tonumber(letter.dead_at) or tonumber(string.match(entry[1], '^%d+')) * 1000
      local subscription = letter[ARGV[2]] or ''
      local name = subscription .. '\0' .. class .. '\0' .. place
      local group = groups[name]
      if group then
        group[4] = group[4] + 1
        group[5], group[6] = math.min(group[5], died), math.max(group[6], died)
      else
        group = {subscription, class, place, 1, died, died}
        groups[name] = group
        found[#found + 1] = group
      end
    end
  end
  if #part < 10 then return answer('') end
end
return answer(from)
