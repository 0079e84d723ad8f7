"""Random streams, precision and memory."""
