"""Which layer to take: by costs on this machine, and by the gradient that arrives from a lag."""
