"""Benchmarks that anyone can run; their results are in `results/`."""
