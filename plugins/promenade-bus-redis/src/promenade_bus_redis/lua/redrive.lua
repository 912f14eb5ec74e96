-- Moves a dead letter to the inbox of the group that failed, once; attempts start again, the history stays.
-- KEYS: dead letters, the inbox. ARGV: the id of the letter, group, and for what goes back to one instance of
-- a broadcast subscription, which has no group: after how many milliseconds it may be forgotten; else empty.
-- Answers: 1 moved, 0 there is no such letter.
local letter = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not letter then return 0 end
local fields, history = {}, ''
local kept = {id = true, key = true, headers = true, body = true, published = true}
for index = 1, #letter[2], 2 do
  local name, value = letter[2][index], letter[2][index + 1]
  if kept[name] then
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  elseif name == 'history' and value ~= '' then
    history = '\n' .. value
  end
end
fields[#fields + 1] = 'state'
fields[#fields + 1] = '1 0' .. history
-- On a topic where its group was never made the letter waits for that.
if ARGV[3] == '' then redis.pcall('XGROUP', 'CREATE', KEYS[2], ARGV[2], '0', 'MKSTREAM') end
redis.call('XADD', KEYS[2], '*', unpack(fields))
if ARGV[3] ~= '' then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
