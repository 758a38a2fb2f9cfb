"""A package that adds a layer, its operator and a command to depprobe."""
