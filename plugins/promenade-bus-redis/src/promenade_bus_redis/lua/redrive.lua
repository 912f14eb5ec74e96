-- Moves dead letters to the inbox of the group that failed, each once; attempts start again, the history stays.
-- KEYS: dead letters, the inbox. ARGV: group, and for what goes back to one instance of a broadcast subscription,
-- which has no group: after how many milliseconds it may be forgotten, else empty; and the ids of the letters.
-- Answers how many were moved: there may be no such letter.
local kept = {id = true, key = true, headers = true, body = true, published = true}
local function move(id)
  local letter = redis.call('XRANGE', KEYS[1], id, id)[1]
  if not letter then return 0 end
  local fields, history = {}, ''
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
  redis.call('XADD', KEYS[2], '*', unpack(fields))
  redis.call('XDEL', KEYS[1], id)
  return 1
end
-- On a topic where its group was never made the letters wait for that.
if ARGV[2] == '' then redis.pcall('XGROUP', 'CREATE', KEYS[2], ARGV[1], '0', 'MKSTREAM') end
local moved = 0
for index = 3, #ARGV do moved = moved + move(ARGV[index]) end
if moved > 0 and ARGV[2] ~= '' then redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
return moved
