-- Takes a token from a bucket, or says when one can be expected.
-- KEYS: the bucket. ARGV: the microseconds between two tokens, the number of tokens that it holds, and the
-- microseconds that the caller waits at most.
-- Its value is two times in microseconds: when it is full again, and the last time that a caller has a place at.
-- Answers 0 with a token, or else the microseconds to wait. Each caller gets a place of its own. One that would
-- wait too long gets none: its answer is above its limit.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local interval, burst, longest = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]) or math.huge
local value = redis.call('GET', KEYS[1])
local full_at, promised = now, now
if value then
  local first, second = value:match('^(%d+) (%d+)$')
  full_at, promised = math.max(tonumber(first) or now, now), tonumber(second) or now
end
-- An earlier call may have had a lower rate, a larger burst or a longer wait; or the clock was set back.
full_at, promised = math.min(full_at, now + burst * interval), math.min(promised, now + longest)
local ready = full_at - (burst - 1) * interval
local wait = 0
if ready <= now then
  full_at = full_at + interval
else
  local turn = math.max(promised + interval, ready)
  wait = turn - now
  if wait <= longest then
    promised = turn
  end
end
local until_idle = math.max(full_at, promised) - now
redis.call('SET', KEYS[1], string.format('%.0f %.0f', full_at, promised), 'PX', math.ceil(until_idle / 1000) + 1000)
return string.format('%.0f', wait)
