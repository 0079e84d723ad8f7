"""A number for each example; which examples a loss is taken on, and how much each counts."""
