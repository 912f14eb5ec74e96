-- Notes groups that nobody ever declared, and when they were first seen.
-- KEYS: the record. ARGV: the topic and the group of each, not very many at once.
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
for _, part in ipairs(ARGV) do
  if not redis.call('HGET', KEYS[1], 'part ' .. part) then
    redis.call('HSET', KEYS[1], 'part ' .. part, '0 ' .. now .. ' 0 {}')
  end
end
return 1
