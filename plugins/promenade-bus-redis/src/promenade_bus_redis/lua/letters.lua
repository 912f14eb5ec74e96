-- Which dead letters of a topic there are, in order: those of one subscription, or all. Their bodies stay here.
-- KEYS: the dead letters. ARGV: where to begin, as XRANGE takes it, the subscription or "", how many at most.
-- Answers: the id and the bytes of each, and where to go on, or "" at the end.
local from, wanted, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local found, bytes = {}, 0
while bytes < 4000000 do
  local part = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 10)
  for _, letter in ipairs(part) do
    local size, subscription = 0, ''
    for index = 1, #letter[2], 2 do
      size = size + #letter[2][index + 1]
      if letter[2][index] == 'subscription' then subscription = letter[2][index + 1] end
    end
    bytes = bytes + size
    from = '(' .. letter[1]
    if wanted == '' or wanted == subscription then
      found[#found + 1] = letter[1]
      found[#found + 1] = size
      if #found == 2 * most then return {found, from} end
    end
  end
  if #part < 10 then return {found, ''} end
end
return {found, from}
