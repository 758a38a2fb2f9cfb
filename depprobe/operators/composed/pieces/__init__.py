"""Pieces of glue that pass without the engine: views, and few nodes of a long graph."""
