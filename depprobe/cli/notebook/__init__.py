"""Results as values of notebook cells: ``ds.depprobe``, with its methods, figure and table. No torch here."""
