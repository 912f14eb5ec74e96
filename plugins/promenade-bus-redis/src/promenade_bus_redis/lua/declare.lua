-- Says that an instance runs, and which subscriptions it serves.
-- KEYS: the record. ARGV: the instance, "1" when it has said everything, what it wants to be kept, and then for
-- each part: its topic and group, "1" when it is ordered, facts.
-- Numbers are given out once for each instance, and for each part that it begins to serve.
local record, instance = KEYS[1], ARGV[1]
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
local function number_of(field)
  local known = redis.call('HGET', record, field)
  known = known and string.match(known, '^(%d+) ')
  return known or string.format('%.0f', redis.call('HINCRBY', record, 'count', 1))
end
local place = 'instance ' .. instance
-- Something is removed first: then a server whose memory is full takes the rest.
redis.call('HDEL', record, '')
redis.call('HSET', record, place, number_of(place) .. ' ' .. ARGV[2] .. ' ' .. ARGV[3])
redis.call('HSET', record, 'keeps ' .. ARGV[3], now)
for index = 4, #ARGV, 3 do
  local part, ordered, facts = ARGV[index], ARGV[index + 1], ARGV[index + 2]
  local serves = 'serves ' .. instance .. ' ' .. part
  local number = number_of(serves)
  redis.call('HSET', record, serves, number .. ' ' .. ordered)
  local known = redis.call('HGET', record, 'part ' .. part)
  local highest, rest = string.match(known or '', '^(%d+) %d+ (.*)$')
  if highest and tonumber(highest) > tonumber(number) then
    number = highest
  else
    rest = ordered .. ' ' .. facts
  end
  redis.call('HSET', record, 'part ' .. part, number .. ' ' .. now .. ' ' .. rest)
end
return 1
