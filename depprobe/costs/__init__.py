"""What a layer costs: FLOPs, bytes, seconds, per-token latency."""
