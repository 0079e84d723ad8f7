"""Policies in training loops of other libraries: a `Balancer` weighs named losses, adapters put it into trainers."""
