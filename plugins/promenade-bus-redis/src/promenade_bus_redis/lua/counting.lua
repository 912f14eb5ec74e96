-- How many entries of a stream come after a given one, where the server does not tell: counts some of them. Answers
-- the number, and the id to go on counting from, or "" at the end.
-- Entries come with their bodies, and everybody waits meanwhile: no more are asked for than are needed, few at a
-- time, until a megabyte has passed.
local function count_after(stream, from, most)
  local length = redis.call('XLEN', stream)
  if length == 0 or not is_after(last_id_of(stream), from) then return 0, '' end
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1][1]
  if is_after(first, from) then return length, '' end
  local count, bytes = 0, 0
  while count < most and bytes < 1000000 do
    local found = redis.call('XRANGE', stream, '(' .. from, '+', 'COUNT', 10)
    count = count + #found
    if #found < 10 then return count, '' end
    from = found[10][1]
    for _, entry in ipairs(found) do
      for _, value in ipairs(entry[2]) do bytes = bytes + #value end
    end
  end
  return count, from
end

