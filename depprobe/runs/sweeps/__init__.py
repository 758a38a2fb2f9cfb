"""Cells of a sweep through any ``concurrent.futures.Executor``."""
