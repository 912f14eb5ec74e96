-- Hands on what is parked and has waited long enough, and tells what else is parked.
-- KEYS: parked, the inbox. ARGV: how many to hand on at most, and the scores of what has waited long enough.
-- Answers: how many were handed on, whether some of these scores are left, the server's time in milliseconds,
-- and of the first and the last that are left the score, and for how many milliseconds it was parked.
local parked, inbox, limit = KEYS[1], KEYS[2], tonumber(ARGV[1])
local moved, more, bytes = 0, 0, 0
-- Members carry bodies, and everybody waits meanwhile: few at a time, until a megabyte has passed.
local function move(score)
  local skipped = 0
  repeat
    local part = redis.call('ZRANGEBYSCORE', parked, score, score, 'LIMIT', skipped, 10)
    for _, member in ipairs(part) do
      if moved == limit or bytes > 1000000 then
        more = 1
        return
      end
      local known, content = pcall(cmsgpack.unpack, member)
      if known and type(content) == 'table' and type(content[3]) == 'table' then
        redis.call('XADD', inbox, '*', unpack(content[3]))
        redis.call('ZREM', parked, member)
        moved = moved + 1
        bytes = bytes + #member
      else
        skipped = skipped + 1
      end
    end
  until #part < 10
end
for index = 2, #ARGV do
  move(ARGV[index])
  if more == 1 then break end
end
local left = {}
local function tell(most, some_from)
  local told = 0
  for place = 0, most - 1, 10 do
    local found = some_from(place)
    for index = 1, #found, 2 do
      local known, content = pcall(cmsgpack.unpack, found[index])
      if known and type(content) == 'table' and tonumber(content[4]) then
        left[#left + 1] = found[index + 1]
        left[#left + 1] = string.format('%.0f', tonumber(content[4]))
      end
      told = told + #found[index]
    end
    if #found < 20 or told > 1000000 then return end
  end
end
tell(100, function(place)
  return redis.call('ZRANGEBYSCORE', parked, '-inf', '+inf', 'WITHSCORES', 'LIMIT', place, 10)
end)
tell(10, function(place) return redis.call('ZREVRANGE', parked, place, place + 9, 'WITHSCORES') end)
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
return {moved, more, string.format('%.0f', now), left}
