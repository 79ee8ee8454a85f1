"""Experiment programs: absl flags in, records and reports out. Nothing in `cnnjax` imports this."""
