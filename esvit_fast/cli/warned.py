"""Warnings of this package as lines of the command line; those of libraries stay as Python shows them."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any


def show_own_warnings_in_a_line() -> None:
    """From now on; of the ranks that torchrun starts, the first one speaks."""
    plain = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if category.__module__.partition(".")[0] != __package__.partition(".")[0]:
            plain(message, category, *rest)
        elif os.environ.get("RANK", "0") == "0":
            print(f"esvit-fast: warning: {message}", file=sys.stderr, flush=True)

    warnings.showwarning = show
