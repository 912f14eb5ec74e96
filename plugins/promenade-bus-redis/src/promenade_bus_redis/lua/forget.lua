-- Forgets a group on one topic, with what waits for it there. Its dead letters stay.
-- KEYS: the stream, the inbox, parked, notes, the fence, what groups have settled. ARGV: group, "1" to do so although it has something to
-- do. Answers: 1 done, 0 there was none, -1 it has something to do.
local group = ARGV[1]
local found = false
if redis.call('EXISTS', KEYS[1]) == 1 then
  local info = facts_of(redis.call('XINFO', 'STREAM', KEYS[1]))
  for _, each in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local facts = facts_of(each)
    if facts['name'] == group then
      found = true
      if ARGV[2] ~= '1' and tonumber(info['length']) > 0 then
        local newest = info['last-entry'][1]
        if tonumber(facts['pending']) > 0 or is_after(newest, facts['last-delivered-id']) then return -1 end
      end
    end
  end
end
if ARGV[2] ~= '1' and redis.call('XLEN', KEYS[2]) + redis.call('ZCARD', KEYS[3]) > 0 then return -1 end
if found then redis.call('XGROUP', 'DESTROY', KEYS[1], group) end
redis.call('HDEL', KEYS[6], group)
local removed = redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
if found or removed > 0 then return 1 end
return 0
