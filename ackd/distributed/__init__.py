"""Other processes and machines: those that train one student together, and those that do jobs."""
