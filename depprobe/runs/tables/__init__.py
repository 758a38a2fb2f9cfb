"""Tables as inputs: their columns, and which of them only say where a row stands."""
