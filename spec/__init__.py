"""The specification: TLA+ modules, models that TLC runs, and an argument without bounds. Imports nothing from `tower`."""
