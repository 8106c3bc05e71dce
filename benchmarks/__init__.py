"""What is measured, how, and what of it is said: `python benchmarks/run.py --help`, and DEVELOPMENT.md."""
