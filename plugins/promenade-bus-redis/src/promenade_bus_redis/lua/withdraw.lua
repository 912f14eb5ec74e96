-- Removes what an instance said that is gone, and notes until when it wanted events to be kept.
-- KEYS: the record. ARGV: what it wanted to be kept, and the fields to remove, not very many at once.
-- What it wanted is noted first, and only if it still is to be found: it may have been forgotten meanwhile.
local wish = 'keeps ' .. ARGV[1]
if redis.call('HGET', KEYS[1], wish) then
  local time = redis.call('TIME')
  local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
  redis.pcall('HSET', KEYS[1], wish, now)
end
for index = 2, #ARGV do redis.call('HDEL', KEYS[1], ARGV[index]) end
return 1
