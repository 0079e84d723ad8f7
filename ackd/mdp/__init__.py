"""The decision process: what happened, what an agent sees, does and earns."""
