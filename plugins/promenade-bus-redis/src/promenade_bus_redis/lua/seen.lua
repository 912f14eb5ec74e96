-- Says that groups are wanted, and when that was last said.
-- KEYS: when groups were last wanted. ARGV: "NX" to do so for those only that nobody has spoken of, or "CH" for
-- all; groups, not very many at once.
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
local arguments = {}
for index = 2, #ARGV do
  arguments[#arguments + 1] = now
  arguments[#arguments + 1] = ARGV[index]
end
return redis.call('ZADD', KEYS[1], ARGV[1], unpack(arguments))
