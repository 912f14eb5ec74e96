-- The id from which on entries are too young to go. spans: such ids, each with the moment up to which an entry has
-- to be stored for that, in milliseconds, as in "1000-0<2000"; what begins after it does not care.
local function bound_of(spans, first)
  local moment, bound = tonumber(string.match(first, '^%d+')), nil
  for id, upto in string.gmatch(spans, '(%d+%-%d+)<(%d+)') do
    if moment <= tonumber(upto) and (not bound or is_after(bound, id)) then bound = id end
  end
  return bound or '0-0'
end
