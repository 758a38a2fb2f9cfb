"""Element-wise work of a step in few calls."""
