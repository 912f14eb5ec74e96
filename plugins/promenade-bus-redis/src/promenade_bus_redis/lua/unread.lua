-- When the first entry was stored that each of some groups has not read.
-- KEYS: the stream. ARGV: the id up to which each of them has read.
-- Answers: the server's time in milliseconds, and for each group the id of that entry, or "".
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
local found = {}
for place, id in ipairs(ARGV) do
  local entry = redis.call('XRANGE', KEYS[1], '(' .. id, '+', 'COUNT', 1)[1]
  found[place] = entry and entry[1] or ''
end
return {now, found}
