"""Several layers in one module: rows pulled through them from the output to the input."""
