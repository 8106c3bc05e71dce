"""One step of training: the trainer, and what it is made of."""
