"""Several models that learn from each other: clients and rounds, peers."""
