"""`python -m benchmarks.report`."""

import sys

from benchmarks.report.performance import main

sys.exit(main())
