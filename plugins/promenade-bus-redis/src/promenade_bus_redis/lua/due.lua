-- Hands on what is parked and has waited long enough, and tells what else is parked.
-- KEYS: parked, the inbox. ARGV: how many to hand on at most, and the scores of what has waited long enough.
-- Answers: how many were handed on, whether some of these scores are left, the server's time in milliseconds,
-- and of the first and the last that are left the score, and for how many milliseconds it was parked.
local parked, inbox, limit = KEYS[1], KEYS[2], tonumber(ARGV[1])
local moved, more = 0, 0
for index = 2, #ARGV do
  local score = ARGV[index]
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', parked, score, score, 'LIMIT', 0, limit - moved + 1)) do
    if moved == limit then
      more = 1
      break
    end
    local known, content = pcall(cmsgpack.unpack, member)
    if known and type(content) == 'table' and type(content[3]) == 'table' then
      redis.call('XADD', inbox, '*', unpack(content[3]))
      redis.call('ZREM', parked, member)
      moved = moved + 1
    end
  end
  if more == 1 then break end
end
local left = {}
local function tell(found)
  for index = 1, #found, 2 do
    local known, content = pcall(cmsgpack.unpack, found[index])
    if known and type(content) == 'table' and tonumber(content[4]) then
      left[#left + 1] = found[index + 1]
      left[#left + 1] = string.format('%.0f', tonumber(content[4]))
    end
  end
end
tell(redis.call('ZRANGEBYSCORE', parked, '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 100))
tell(redis.call('ZREVRANGE', parked, 0, 9, 'WITHSCORES'))
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
return {moved, more, string.format('%.0f', now), left}
