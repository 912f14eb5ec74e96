-- What scripts begin with that act for whoever has its turn.

-- Refuses a token when one that is greater was shown before, or an equal one of another holder. A token is a
-- number, and its holder after a blank.
local function fenced(fence, token)
  local highest = redis.call('GET', fence)
  if highest == token then return false end
  if highest then
    local theirs = tonumber(string.match(highest, '^%d+')) or 0
    if theirs >= (tonumber(string.match(token, '^%d+')) or 0) then
      return 'fenced ' .. string.format('%.0f', theirs)
    end
  end
  redis.call('SET', fence, token)
  return false
end

