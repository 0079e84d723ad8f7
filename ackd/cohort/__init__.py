"""Trains N students in one batched step."""
