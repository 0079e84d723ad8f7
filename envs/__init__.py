"""Environments: distillation as a decision process, its recording, and a toy with a known optimum."""
