"""What records say: docs/performance.md, report.html and report.png; `python -m benchmarks.report`."""
