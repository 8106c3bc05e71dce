"""The command line: strings to calls."""
