"""A sweep on disk: its folder, its cells, all of them as one dataset. No torch here."""
