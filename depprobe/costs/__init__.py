"""What a layer costs: FLOPs, bytes, seconds, and what one more token of a stream takes."""
