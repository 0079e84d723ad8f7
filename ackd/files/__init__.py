"""Reads untrusted files, and writes files atomically."""
