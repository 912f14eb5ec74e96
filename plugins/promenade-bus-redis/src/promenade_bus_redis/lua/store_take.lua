-- Takes a token from a bucket, or says when one can be expected.
-- KEYS: the bucket. ARGV: the microseconds between two tokens, the number of tokens that it holds.
-- Its value is two times in microseconds: when it is full again, and the time that the last caller was told.
-- Answers 0 with a token, or else the microseconds to wait. Each caller is told another time.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local value = redis.call('GET', KEYS[1])
local full_at, promised = now, now
if value then
  local first, second = value:match('^(%d+) (%d+)$')
  full_at, promised = math.max(tonumber(first) or now, now), tonumber(second) or now
end
local ready = full_at - (burst - 1) * interval
local wait = 0
if ready <= now then
  full_at = full_at + interval
else
  promised = math.max(promised + interval, ready)
  wait = promised - now
end
local until_idle = math.max(full_at, promised) - now
redis.call('SET', KEYS[1], string.format('%.0f %.0f', full_at, promised), 'PX', math.ceil(until_idle / 1000) + 1000)
return string.format('%.0f', wait)
