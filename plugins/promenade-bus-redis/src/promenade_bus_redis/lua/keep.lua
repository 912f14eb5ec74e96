-- The id before which entries are old enough to go. spans: for how long entries stay, in milliseconds, and up to
-- which moment they have to be stored for that, as in "1000<2000"; what begins after it does not care.
local function bound_of(spans, first, now)
  local moment, bound = tonumber(string.match(first, '^%d+')), now
  for age, upto in string.gmatch(spans, '(%d+)<(%d+)') do
    if moment <= tonumber(upto) then bound = math.min(bound, now - tonumber(age)) end
  end
  return string.format('%.0f-0', math.max(0, bound))
end
