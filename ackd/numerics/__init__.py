"""Random streams, precision, ridge regression and memory."""
