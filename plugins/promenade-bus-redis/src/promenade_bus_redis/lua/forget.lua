-- Forgets a group on one topic, with what waits for it there. Its dead letters stay.
-- KEYS: the stream, the inbox, parked, notes, the fence, what groups have settled. ARGV: group, "1" to do so although it has something to
-- do. Answers: 1 done, 0 there was none, -1 it has something to do.
local group = ARGV[1]
local found = false
-- Where somebody else has put something in the place of a key, the group has nothing there.
local function ask(...)
  local answer = redis.pcall(...)
  return not (type(answer) == 'table' and answer.err) and answer or nil
end
local info = ask('XINFO', 'STREAM', KEYS[1])
if info then
  info = facts_of(info)
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
if ARGV[2] ~= '1' and (ask('XLEN', KEYS[2]) or 0) + (ask('ZCARD', KEYS[3]) or 0) > 0 then return -1 end
if found then redis.call('XGROUP', 'DESTROY', KEYS[1], group) end
ask('HDEL', KEYS[6], group)
local removed = redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
if found or removed > 0 then return 1 end
return 0
