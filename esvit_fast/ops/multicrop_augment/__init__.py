"""The operator `multicrop_augment`: op.py is what is public; every backend that has it is a file."""
