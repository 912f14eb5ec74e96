-- Reads for a group without waiting; where there is little, tells how far the streams go, so that a wait for
-- more can begin there.
-- KEYS: the streams, and the fence of the first one. ARGV: group, consumer, how many, token of the active
-- instance (ordered groups; else empty).
-- Answers: what XREADGROUP does, and the last ids of the streams ({} where it found as many as were asked for,
-- so that there may be more). Or "fenced"
-- and the token of another instance that was active since.
local streams = #KEYS - 1
if ARGV[4] ~= '' then
  local highest = redis.call('GET', KEYS[#KEYS])
  if highest and tonumber(highest) > tonumber(ARGV[4]) then return 'fenced ' .. highest end
  if highest ~= ARGV[4] then redis.call('SET', KEYS[#KEYS], ARGV[4]) end
end
local arguments = {'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS'}
for index = 1, streams do arguments[#arguments + 1] = KEYS[index] end
for index = 1, streams do arguments[#arguments + 1] = '>' end
local found = redis.call('XREADGROUP', unpack(arguments))
local last = {}
local more = false
for _, stream in ipairs(found or {}) do
  if #stream[2] >= tonumber(ARGV[3]) then more = true end
end
if not more then
  for index = 1, streams do
    local info = redis.call('XINFO', 'STREAM', KEYS[index])
    for place = 1, #info, 2 do
      if info[place] == 'last-generated-id' then last[index] = info[place + 1] end
    end
  end
end
return {found, last}
