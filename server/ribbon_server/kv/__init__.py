"""The KV memory of the shard: its byte layout and its ribbons."""
