-- How much a group has not settled: what nobody has read, what is pending, what came back, what is parked.
-- KEYS: the stream, the inbox, parked. ARGV: group, id to go on counting from or "", how many entries to
-- count at once.
-- Answers: the number, and the id to go on counting from, or "" at the end.
local limit = tonumber(ARGV[3])
local total, from = 0, ARGV[2]
if from == '' then
  total = redis.call('XLEN', KEYS[2]) + redis.call('ZCARD', KEYS[3])
  if redis.call('EXISTS', KEYS[1]) == 0 then return {total, ''} end
  local delivered, lag
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local facts = {}
    for index = 1, #info, 2 do facts[info[index]] = info[index + 1] end
    if facts['name'] == ARGV[1] then
      total = total + tonumber(facts['pending'])
      delivered, lag = facts['last-delivered-id'], facts['lag']
    end
  end
  if not delivered then
    -- The group will be made at the beginning.
    return {total + redis.call('XLEN', KEYS[1]), ''}
  end
  -- Before 7.0 there is no lag, and later on it is not always known.
  if lag then return {total + tonumber(lag), ''} end
  from = delivered
end
local unread, following = count_after(KEYS[1], from, limit)
return {total + unread, following}
