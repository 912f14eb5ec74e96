-- How many entries of a stream come after a given one.
-- KEYS: the stream. ARGV: the entry to begin after, how many entries to count at once.
-- Answers: the number, and the id to go on counting from, or "" at the end.
return {count_after(KEYS[1], ARGV[1], tonumber(ARGV[2]))}
