-- Takes over entries whose owner is dead, and counts its death as an attempt.
-- KEYS: the stream, notes, the fence, what groups have settled, the counts of losses, and heartbeats where they are
-- on the same server. ARGV: group, consumer, id to begin with, how many pending entries to look at, how many to
-- take, how many the consumer has taken already and not settled, prefix of notes ("" for the stream of the topic
-- itself), token of the active instance (ordered groups; else empty), the topic, and then owners that are dead,
-- each with the heartbeat that its instance stopped at ("" for none).
-- An entry that outlived two owners or more is taken alone, so that it cannot ruin others a second time.
-- What belongs to "~" was released: nobody died.
-- Answers: where to go on ("" at the end), {id, fields, state} of each one that was taken, ids of those that
-- are gone from the stream, and whether some were left for later. Or "fenced" and the token
-- of another instance that was active since.
local stream, notes = KEYS[1], KEYS[2]
local group, consumer, start, window = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local room, taken, prefix, token, topic = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], ARGV[8], ARGV[9]
local refused = token ~= '' and fenced(KEYS[3], token)
if refused then return refused end
local dead = {}
for index = 10, #ARGV, 2 do
  local owner = ARGV[index]
  local instance = string.match(owner, '^(.*)#[^#]*$') or owner
  if not KEYS[6] or (redis.call('ZSCORE', KEYS[6], instance) or '') == ARGV[index + 1] then dead[owner] = true end
end
local time = redis.call('TIME')
local now = string.format('%d%06d', tonumber(time[1]), tonumber(time[2]))
local pending = redis.call('XPENDING', stream, group, start, '+', window)
local picked, gone, left = {}, {}, 0
local cursor = ''
if #pending == window then cursor = '(' .. pending[#pending][1] end
for _, entry in ipairs(pending) do
  local id, owner = entry[1], entry[2]
  if owner ~= consumer and (owner == '~' or dead[owner]) then
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
            .. string.gsub(owner, '[^%w._:#-]', '?') .. ' sent no more heartbeats", ""]'
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
