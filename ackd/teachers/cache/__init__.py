"""Caches of teachers' outputs on disk, limited by a budget."""
