"""One student's training: model and optimizer, the step, the loop, what is measured."""
