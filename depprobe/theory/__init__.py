"""Closed forms and mean-field predictions, one formula a file, each with its source. No torch here."""
