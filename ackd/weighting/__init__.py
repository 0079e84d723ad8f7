"""Scores of examples, the selection of examples for each loss, and their weights."""
