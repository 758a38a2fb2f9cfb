"""Standard errors and intervals of the numbers of curves, from what is drawn again."""
