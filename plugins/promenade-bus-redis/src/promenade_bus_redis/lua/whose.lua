-- Whose dead letters are: their fields, without what is large.
-- KEYS: the dead letters of a topic. ARGV: ids, not very many at once.
-- Answers for each id: its bytes, and its fields but for body, headers and history; {} where there is no such
-- letter.
local large = {body = true, headers = true, history = true}
local answers = {}
for place, id in ipairs(ARGV) do
  local letter = redis.call('XRANGE', KEYS[1], id, id)[1]
  local fields, size = {}, 0
  if letter then
    for index = 1, #letter[2], 2 do
      size = size + #letter[2][index + 1]
      if not large[letter[2][index]] then
        fields[#fields + 1] = letter[2][index]
        fields[#fields + 1] = letter[2][index + 1]
      end
    end
  end
  answers[place] = letter and {size, fields} or {}
end
return answers
