-- What scripts begin with that have to go on when the memory of the server is full: a write that needs none. After
-- one Redis lets a script do all of it ("Script and memory usage under low memory conditions" in its documentation,
-- on every version). None of the first keys has a time to live.
redis.call('PERSIST', KEYS[1])

