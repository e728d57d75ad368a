"""One shard of a Ribbon server: the weights, the ribbons and the forward pass. Knows no text and makes no schedule."""
