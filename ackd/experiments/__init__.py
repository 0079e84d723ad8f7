"""What is done with trainings: a grid of settings, several processes, predictions."""
