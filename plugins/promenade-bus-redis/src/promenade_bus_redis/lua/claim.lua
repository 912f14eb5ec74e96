-- Takes over entries whose owner has not renewed its lease, and counts its death as an attempt.
-- KEYS: the stream, notes, the fence, what groups have settled, the counts of losses. ARGV: group, consumer, lease in milliseconds, id to begin with, how many
-- pending entries to look at, how many to take, how many the consumer has taken already and not settled,
-- prefix of notes ("" for the stream of the topic itself), token of the active instance (ordered groups; else
-- empty), whose consumers are taken over at once, the topic.
-- An entry that outlived two owners or more is taken alone, so that it cannot ruin others a second time.
-- What belongs to "~" was released: nobody died.
-- Answers: where to go on ("" at the end), {id, fields, state} of each one that was taken, ids of those that
-- are gone from the stream, and whether some were left for later. Or "fenced" and the token
-- of another instance that was active since.
local stream, notes = KEYS[1], KEYS[2]
local group, consumer, lease, start, window = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local room, taken, prefix, token, inherited = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8], ARGV[9], ARGV[10]
local topic = ARGV[11]
if token ~= '' then
  local highest = redis.call('GET', KEYS[3])
  if highest and tonumber(highest) > tonumber(token) then return 'fenced ' .. highest end
  if highest ~= token then redis.call('SET', KEYS[3], token) end
end
local time = redis.call('TIME')
local now = string.format('%d%06d', tonumber(time[1]), tonumber(time[2]))
local pending = redis.call('XPENDING', stream, group, start, '+', window)
local picked, gone, left = {}, {}, 0
local cursor = ''
if #pending == window then cursor = '(' .. pending[#pending][1] end
for _, entry in ipairs(pending) do
  local id, owner, idle = entry[1], entry[2], tonumber(entry[3])
  local is_free = idle >= lease or owner == '~'
  if inherited ~= '' and string.sub(owner, 1, #inherited) == inherited then is_free = true end
  if owner ~= consumer and is_free then
    local state = redis.call('HGET', notes, prefix .. id)
    local attempt, deaths, history = 1, 0, ''
    local known = false
    if state then
      local a, d, h = string.match(state, '^(%d+) (%d+)(.*)$')
      if a then attempt, deaths, history, known = tonumber(a), tonumber(d), h, true end
    end
    local alone = deaths >= 1 and owner ~= '~'
    if #picked >= room or (alone and (#picked > 0 or taken > 0)) then
      left = 1
      if token ~= '' or #picked >= room then
        cursor = ''
        break
      end
    else
      local claimed = redis.call('XCLAIM', stream, group, consumer, 0, id)[1]
      if not claimed or not claimed[2] then
        redis.call('XACK', stream, group, id)
        redis.call('HDEL', notes, prefix .. id)
        if prefix == '' then settle(KEYS[4], group, 1) end
        redis.call('HINCRBY', KEYS[5], topic .. ' ' .. group, 1)
        gone[#gone + 1] = id
      else
        if owner ~= '~' then
          if not known then
            -- What came back to this group brings its attempts along.
            local fields = claimed[2]
            for index = 1, #fields, 2 do
              if fields[index] == 'state' and prefix ~= '' then
                local a, d, h = string.match(fields[index + 1], '^(%d+) (%d+)(.*)$')
                if a then attempt, deaths, history = tonumber(a), tonumber(d), h end
              end
            end
          end
          history = history .. '\n[' .. attempt .. ', ' .. now .. ', "ConsumerDied: '
            .. string.gsub(owner, '[^%w._:-]', '?') .. ' stopped renewing its lease", ""]'
          attempt, deaths = attempt + 1, deaths + 1
          state = attempt .. ' ' .. deaths .. history
          redis.call('HSET', notes, prefix .. id, state)
        end
        picked[#picked + 1] = {id, claimed[2], state or ''}
        if alone then
          left, cursor = 1, ''
          break
        end
      end
    end
  end
end
return {cursor, picked, gone, left}
