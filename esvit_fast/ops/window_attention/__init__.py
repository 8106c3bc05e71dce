"""The operator `window_attention`: op.py is what is public; every backend that has it is a file."""
