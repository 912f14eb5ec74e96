-- Dead letters as a filter selects them.
-- ARGV from the third on: the subscription, a text of the error, two times in microseconds before and since which
-- they died, the event; "" for anything.
local wanted = {subscription = ARGV[3], event_id = ARGV[7]}
local text, before, after = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local function is_in(value) return type(value) == 'string' and string.find(value, text, 1, true) end
-- The last attempt of a letter: its number, its time, its error and its place; nil where none can be read.
local function last_attempt(letter)
  local known, last = pcall(cjson.decode, string.match(letter.history or '', '[^\n]*$'))
  local is_one = known and type(last) == 'table' and type(last[3]) == 'string'
  if not is_one then return nil end
  if type(last[4]) ~= 'string' then last[4] = '' end
  return last
end
-- The text is looked for in the reason, and in the error and the place of the last attempt.
local function says_so(letter)
  if is_in(letter.reason) then return true end
  local last = last_attempt(letter)
  return last ~= nil and (is_in(last[3]) or is_in(last[4]))
end
local function is_selected(letter)
  for name, value in pairs(wanted) do
    if value ~= '' and value ~= letter[name] then return false end
  end
  if before or after then
    local died = tonumber(letter.dead_at)
    if not died or (before and died >= before) or (after and died < after) then return false end
  end
  return text == '' or says_so(letter)
end
-- The fields of an entry by name, the first of each, and the bytes of all.
local function read(fields)
  local size, letter = 0, {}
  for index = 1, #fields, 2 do
    size = size + #fields[index + 1]
    letter[fields[index]] = letter[fields[index]] or fields[index + 1]
  end
  return letter, size
end
