"""Pictures and captions encoded once and kept in shards."""
