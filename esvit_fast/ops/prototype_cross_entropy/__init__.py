"""The operator `prototype_cross_entropy`: op.py is what is public; every backend that has it is a file."""
