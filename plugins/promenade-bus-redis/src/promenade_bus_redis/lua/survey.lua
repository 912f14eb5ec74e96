-- What there is of a topic, and how far its groups are.
-- KEYS: the stream. ARGV: "1" to tell consumers as well.
-- Answers: how many entries there are, how many were ever added (-1 where the server does not know), the server's
-- time in milliseconds, and for each group: its name, how many entries are pending, the lowest pending id or "",
-- how many entries it has not read (-1 where the server does not know), the id it has read up to, and the names
-- of its consumers.
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
if redis.call('EXISTS', KEYS[1]) == 0 then return {0, 0, now, {}} end
local info = facts_of(redis.call('XINFO', 'STREAM', KEYS[1]))
local groups = {}
for _, each in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = facts_of(each)
  local lowest = ''
  if tonumber(group['pending']) > 0 then lowest = redis.call('XPENDING', KEYS[1], group['name'])[2] end
  local consumers = {}
  if ARGV[1] == '1' then
    for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], group['name'])) do
      consumers[#consumers + 1] = facts_of(consumer)['name']
    end
  end
  local lag = group['lag'] or -1
  -- Of a group that stands before the first entry it may be a count of what is not there any more (Valkey).
  if lag > tonumber(info['length']) then lag = tonumber(info['length']) end
  if group['last-delivered-id'] == info['last-generated-id'] then lag = 0 end
  groups[#groups + 1] =
    {group['name'], tonumber(group['pending']), lowest, lag, group['last-delivered-id'], consumers}
end
return {tonumber(info['length']), info['entries-added'] or -1, now, groups}
