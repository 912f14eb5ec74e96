-- Removes consumers of a group that hold nothing: what a consumer holds would go with it.
-- KEYS: the stream. ARGV: group, the consumer or "" for all that were not seen for a while, that while in
-- milliseconds. Answers how many were removed.
local removed = 0
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local facts = {}
  for index = 1, #info, 2 do facts[info[index]] = info[index + 1] end
  local meant = facts['name'] == ARGV[2]
  if ARGV[2] == '' then meant = facts['name'] ~= '~' and tonumber(facts['idle']) > tonumber(ARGV[3]) end
  if meant and tonumber(facts['pending']) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], facts['name'])
    removed = removed + 1
  end
end
return removed
