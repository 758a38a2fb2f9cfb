"""The layers of a stack, linearised at their inputs, one file a kind."""
