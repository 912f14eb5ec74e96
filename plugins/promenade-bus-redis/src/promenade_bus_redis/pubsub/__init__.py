"""``mode: pubsub``: events for those who listen at the moment. It may drop, and counts what it did."""
