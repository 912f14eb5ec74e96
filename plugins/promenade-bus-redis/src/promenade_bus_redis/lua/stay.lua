-- Keeps an instance the active one, or ends that. Answers: 1, or 0 when it is not any more.
-- KEYS: the lock. ARGV: the token, lease in milliseconds, or 0 to end it.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
