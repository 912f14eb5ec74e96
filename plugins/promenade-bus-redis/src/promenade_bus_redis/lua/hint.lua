-- Notes when a group has something parked that is due next; keeps the earliest.
-- KEYS: hints. ARGV: the group, milliseconds from now, "set" to replace, "clear" to forget, or "earliest".
if ARGV[3] == 'clear' then return redis.call('ZREM', KEYS[1], ARGV[1]) end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local score = now + tonumber(ARGV[2])
if ARGV[3] == 'earliest' then
  local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
  if known and tonumber(known) <= score then return 0 end
end
redis.call('ZADD', KEYS[1], string.format('%.0f', score), ARGV[1])
return 1
