"""The shard as gRPC serves it. The only room that knows gRPC; it knows no tensors."""
