"""One student's training: model, optimizer, training step, loop and evaluation."""
