"""Which layer to take: by costs measured on this machine, and by the gradient that arrives from a lag."""
