-- Moves entries that the consumer owns to another place: written there first, and forgotten here only when
-- that succeeded.
-- KEYS: the stream, notes, the other place, what groups have settled. ARGV: group, consumer, "1" to delete them
-- from the stream as well, which is one that nobody else reads, prefix of notes, "stream" or "parked", and then for each entry: id, delay in milliseconds, number
-- of fields and values, fields and values.
-- Answers for each id: 1 done, or the score of what is parked; 0 nobody owns it, -1 somebody else does, or the
-- error of the write.
local stream, notes, target = KEYS[1], KEYS[2], KEYS[3]
local group, consumer, delete, prefix, kind = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
-- What must be moved before it can be trimmed may use a tenth of the memory beyond what the server gives to others.
local function has_reserve()
  local memory = redis.call('INFO', 'memory')
  local used, most = string.match(memory, 'used_memory:(%d+)'), string.match(memory, 'maxmemory:(%d+)')
  return used and most and tonumber(used) < 1.1 * tonumber(most)
end

local function write(fields, id, delay)
  if kind == 'parked' then
    -- The id makes it unique.
    local member = cmsgpack.pack({id, prefix, fields, delay})
    return redis.pcall('ZADD', target, string.format('%.0f', now + delay), member)
  end
  return redis.pcall('XADD', target, '*', unpack(fields))
end

local results = {}
local index = 6
while index <= #ARGV do
  local id, delay, count = ARGV[index], tonumber(ARGV[index + 1]), tonumber(ARGV[index + 2])
  local fields = {}
  for offset = 1, count do fields[offset] = ARGV[index + 2 + offset] end
  index = index + 3 + count
  local found = redis.call('XPENDING', stream, group, id, id, 1)[1]
  if not found then
    results[#results + 1] = 0
  elseif found[2] ~= consumer then
    results[#results + 1] = -1
  else
    local written = write(fields, id, delay)
    if type(written) == 'table' and written.err and string.find(written.err, 'OOM') and has_reserve() then
      -- A write that needs no memory, after which the server takes those that do.
      redis.call('PERSIST', stream)
      written = write(fields, id, delay)
    end
    if type(written) == 'table' and written.err then
      results[#results + 1] = written.err
    else
      redis.call('XACK', stream, group, id)
      if delete == '1' then
        redis.call('XDEL', stream, id)
      else
        settle(KEYS[4], group, 1)
      end
      redis.call('HDEL', notes, prefix .. id)
      results[#results + 1] = kind == 'parked' and string.format('%.0f', now + delay) or 1
    end
  end
end
return results
