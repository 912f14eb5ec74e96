-- What several scripts begin with.

local function facts_of(flat)
  local facts = {}
  for index = 1, #flat, 2 do facts[flat[index]] = flat[index + 1] end
  return facts
end

-- The id of the last entry that was added to a stream, or of the last one that is there: nothing comes after it.
-- XINFO STREAM carries two entries along, bodies and all, which is what is to be avoided.
local function last_id_of(stream)
  if redis.call('XLEN', stream) > 0 then return redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1][1] end
  return facts_of(redis.call('XINFO', 'STREAM', stream))['last-generated-id']
end

-- Ids are compared as texts: their numbers may be greater than Lua's are exact.
local function is_after(left, right)
  local left_time, left_number = string.match(left, '^(%d+)-(%d+)$')
  local right_time, right_number = string.match(right, '^(%d+)-(%d+)$')
  if left_time == right_time then left_time, right_time = left_number, right_number end
  if #left_time ~= #right_time then return #left_time > #right_time end
  return left_time > right_time
end

