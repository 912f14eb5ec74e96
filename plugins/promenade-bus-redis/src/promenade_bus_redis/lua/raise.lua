-- Copies counts that only ever grow; repeating it, or an older copy, changes nothing.
-- KEYS: where to. ARGV: a name and a count for each.
for index = 1, #ARGV, 2 do
  local known = tonumber(redis.call('HGET', KEYS[1], ARGV[index]) or 0)
  if tonumber(ARGV[index + 1]) > known then redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1]) end
end
return 1
