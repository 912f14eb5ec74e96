-- Which dead letters of a topic there are, in order: those that a filter selects. Their bodies stay here.
-- KEYS: the dead letters. ARGV: where to begin, as XRANGE takes it, how many at most, and the filter.
-- Answers: the id and the bytes of each, and where to go on, or "" at the end.
local from, most = ARGV[1], tonumber(ARGV[2])
local found, bytes = {}, 0
while bytes < 4000000 do
  local part = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 10)
  for _, entry in ipairs(part) do
    local letter, size = read(entry[2])
    bytes = bytes + size
    from = '(' .. entry[1]
    if is_selected(letter) then
      found[#found + 1] = entry[1]
      found[#found + 1] = size
      if #found == 2 * most then return {found, from} end
    end
  end
  if #part < 10 then return {found, ''} end
end
return {found, from}
