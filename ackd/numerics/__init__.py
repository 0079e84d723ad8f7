"""Random numbers, bfloat16, memory."""
