"""A run's folder, its files, its metrics, and handling of stop signals."""
