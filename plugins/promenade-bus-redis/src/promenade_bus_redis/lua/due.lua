-- Hands on what is parked and has waited long enough, and tells what else is parked. What somebody else has put
-- there goes along as the body of an entry: it becomes a dead letter, as on a stream.
-- KEYS: parked, the inbox. ARGV: how many to hand on at most, and the scores of what has waited long enough.
-- Answers: how many were handed on, whether some of these scores are left, the server's time in milliseconds,
-- of the first and the last that are left the score, and for how many milliseconds it was parked, and how many
-- were somebody else's.
local parked, inbox, limit = KEYS[1], KEYS[2], tonumber(ARGV[1])
local moved, more, bytes, strange = 0, 0, 0, 0

-- The fields and the delay of what was parked; nil for what the bus did not park.
local function read(member)
  local known, content = pcall(cmsgpack.unpack, member)
  if not known or type(content) ~= 'table' or type(content[3]) ~= 'table' then return nil end
  local fields, delay = content[3], tonumber(content[4])
  if not delay or not (delay >= 0 and delay < 1e15) then return nil end
  if #fields == 0 or #fields % 2 == 1 or #fields > 1000 then return nil end
  for index = 1, #fields do
    if type(fields[index]) ~= 'string' then return nil end
  end
  return fields, delay
end

local function hand_on(member, fields)
  if not fields then strange = strange + 1 end
  redis.call('XADD', inbox, '*', unpack(fields or {'body', member}))
  redis.call('ZREM', parked, member)
  moved = moved + 1
  bytes = bytes + #member
end

-- Members carry bodies, and everybody waits meanwhile: few at a time, until a megabyte has passed.
local function move(score)
  repeat
    local part = redis.call('ZRANGEBYSCORE', parked, score, score, 'LIMIT', 0, 10)
    for _, member in ipairs(part) do
      if moved == limit or bytes > 1000000 then
        more = 1
        return
      end
      hand_on(member, (read(member)))
    end
  until #part < 10
end
for index = 2, #ARGV do
  move(ARGV[index])
  if more == 1 then break end
end
local left, foreign = {}, {}
local function tell(most, some_from)
  local told = 0
  for place = 0, most - 1, 10 do
    local found = some_from(place)
    for index = 1, #found, 2 do
      local fields, delay = read(found[index])
      if fields then
        left[#left + 1] = found[index + 1]
        left[#left + 1] = string.format('%.0f', delay)
      else
        foreign[found[index]] = true
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
for member in pairs(foreign) do hand_on(member) end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
return {moved, more, string.format('%.0f', now), left, strange}
