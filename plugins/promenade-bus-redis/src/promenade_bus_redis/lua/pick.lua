-- Some dead letters as they are.
-- KEYS: the dead letters of a topic. ARGV: ids, of no more bytes than one answer may have.
-- Answers for each id: its fields; {} where there is no such letter.
local answers = {}
for place, id in ipairs(ARGV) do
  local letter = redis.call('XRANGE', KEYS[1], id, id)[1]
  answers[place] = letter and letter[2] or {}
end
return answers
