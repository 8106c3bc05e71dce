"""`python -m benchmarks.report`."""

import sys

from benchmarks.report.command import main

sys.exit(main())
