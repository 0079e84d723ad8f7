"""Federated learning and mutual learning: several models that learn from each other."""
