"""Measurements that anyone can run; what came out stands in `results/`."""
