"""What is larger than an operator: a training step, whole models, from files to views, predictions, the card."""
