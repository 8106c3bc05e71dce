"""`python -m esvit_fast` is `esvit-fast`."""

import sys

from .cli.main import main

sys.exit(main())
