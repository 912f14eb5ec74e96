"""``mode: pubsub``: events for current subscribers. It may drop events, and counts them."""
