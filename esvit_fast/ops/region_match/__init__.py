"""The operator `region_match`: op.py is what is public; every backend that has it is a file."""
