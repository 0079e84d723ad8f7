"""Builds a checked distillation from names, paths or objects."""
