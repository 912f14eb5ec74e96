-- Removes what the record says, if it says still what it said when it was read: somebody may have said it anew.
-- KEYS: the record. ARGV: each field and its value, or "" for whatever it says, not very many at once.
-- Answers how many were removed.
local removed, parts = 0, 0
for index = 1, #ARGV, 2 do
  local field, value = ARGV[index], ARGV[index + 1]
  if value == '' or redis.call('HGET', KEYS[1], field) == value then
    local count = redis.call('HDEL', KEYS[1], field)
    removed = removed + count
    if string.find(field, '^part ') then parts = parts + count end
  end
end
if parts > 0 then redis.call('HINCRBY', KEYS[1], 'count', 1) end
return removed
