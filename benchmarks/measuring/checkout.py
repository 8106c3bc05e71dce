"""This checkout: where it lies, what commit it is of, and the operators that it has. No torch."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "benchmarks" / "records"
OPERATORS = tuple(sorted(path.parent.name for path in (ROOT / "esvit_fast" / "ops").glob("[!_]*/op.py")))


def commit() -> str | None:
    """The commit of this checkout; of a copy without git's folder, what ESVIT_FAST_COMMIT says, or None."""
    return git("rev-parse", "HEAD") or os.environ.get("ESVIT_FAST_COMMIT")


def git(*arguments: str) -> str:
    """What git says about this checkout; nothing where there is no git, or no repository of its own."""
    if not (ROOT / ".git").exists():
        return ""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
