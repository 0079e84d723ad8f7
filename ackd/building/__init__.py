"""From names and paths to a checked, ready distillation."""
