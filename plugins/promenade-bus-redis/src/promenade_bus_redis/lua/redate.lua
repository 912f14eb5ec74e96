-- Says of parts that they were declared now, if they say still what they said when they were read: by the server's
-- clock that was in the future.
-- KEYS: the record. ARGV: each field and its value, not very many at once.
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
for index = 1, #ARGV, 2 do
  local field, value = ARGV[index], ARGV[index + 1]
  local number, rest = string.match(value, '^(%d+) %d+ (.*)$')
  if number and redis.call('HGET', KEYS[1], field) == value then
    redis.call('HSET', KEYS[1], field, number .. ' ' .. now .. ' ' .. rest)
  end
end
return 1
