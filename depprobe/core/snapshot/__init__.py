"""A module as it was before its calls, with all that they can change, and the return to that."""
