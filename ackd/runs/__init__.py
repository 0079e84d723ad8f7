"""A run's folder, what it tells, and ending when asked."""
