"""Experiments: trainings in run folders, grids of settings, several processes, predictions."""
