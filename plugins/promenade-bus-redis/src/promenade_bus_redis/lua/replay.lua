-- Hands kept events to a group again, as its inbox does: the next ones of a replay, each once. The progress is
-- stored with them, so that a repeated call goes on where the last one has ended.
-- KEYS: the stream, the group's inbox, the progress of replays. ARGV: the group; the replay, or "" to count only;
-- the first id and the last one, as XRANGE takes them; how many entries to look at; after how many milliseconds
-- the progress may be forgotten; the state of what is handed out; and the ids of the events, or none for all.
-- Answers: the id to go on from, or "" at the end; how many events the replay has handed out here, and how many
-- it has passed over, because the group has not settled them: they are unread or pending.
local MOST_BYTES = 1000000
local begin, done, passed = ARGV[3], 0, 0
if ARGV[2] ~= '' then
  local noted = redis.call('HGET', KEYS[3], ARGV[2])
  if noted then
    local from, events, unsettled = string.match(noted, '^(%S*) (%d+) (%d+)$')
    begin, done, passed = from, tonumber(events), tonumber(unsettled)
    if begin == 'end' then return {'', done, passed} end
  end
end
local wanted
if #ARGV > 7 then
  wanted = {}
  for index = 8, #ARGV do wanted[ARGV[index]] = true end
end
local read_up_to
if redis.call('EXISTS', KEYS[1]) == 1 then
  for _, each in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local group = facts_of(each)
    if group['name'] == ARGV[1] then read_up_to = group['last-delivered-id'] end
  end
end
local function is_unsettled(id)
  if not read_up_to or is_after(id, read_up_to) then return true end
  return #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1) > 0
end

local is_at_end, size, made = false, 0, false
for _ = 1, tonumber(ARGV[5]) do
  local entry = redis.call('XRANGE', KEYS[1], begin, ARGV[4], 'COUNT', 1)[1]
  if not entry then
    is_at_end = true
    break
  end
  local fields, event_id = {}, nil
  for index = 1, #entry[2], 2 do
    local name, value = entry[2][index], entry[2][index + 1]
    if name == 'id' then event_id = value end
    if name ~= 'published' and name ~= 'state' then
      fields[#fields + 1] = name
      fields[#fields + 1] = value
      size = size + #value
    end
  end
  begin = '(' .. entry[1]
  if not wanted or (event_id and wanted[event_id]) then
    if is_unsettled(entry[1]) then
      passed = passed + 1
    else
      done = done + 1
      if ARGV[2] ~= '' then
        fields[#fields + 1] = 'published'
        fields[#fields + 1] = string.match(entry[1], '^(%d+)-')
        fields[#fields + 1] = 'state'
        fields[#fields + 1] = ARGV[7]
        if not made then redis.pcall('XGROUP', 'CREATE', KEYS[2], ARGV[1], '0', 'MKSTREAM') end
        made = true
        redis.call('XADD', KEYS[2], '*', unpack(fields))
      end
    end
  end
  if size >= MOST_BYTES then break end
end
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[3], ARGV[2], (is_at_end and 'end' or begin) .. ' ' .. done .. ' ' .. passed)
  redis.call('PEXPIRE', KEYS[3], ARGV[6])
end
return {is_at_end and '' or begin, done, passed}
