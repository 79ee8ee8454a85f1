"""What `python -m experiments.benchmark` measures: one suite a file, and the clock they share."""
