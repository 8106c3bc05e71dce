"""What is kept of a bug: its whole traceback, in the folder of the run."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from .. import __version__

_run: Path | None = None


def belongs_to(run: Path | None) -> None:
    """Let tracebacks of what follows be kept in a run's folder; None: in the system's folder for temporary files."""
    global _run
    _run = run


def keep(error: Exception, argv: Sequence[str]) -> str:
    """Append an error's traceback, with time and command line, to a file; returns where it is.

    Each of several ranks has a file of its own. Where no file can be written, the traceback is printed.
    """
    rank = os.environ.get("RANK") if "WORLD_SIZE" in os.environ else None
    name = "traceback.txt" if rank is None else f"traceback.rank{rank}.txt"
    time = datetime.now().astimezone().isoformat(" ", "seconds")
    of_rank = "" if rank is None else f", rank {rank}"
    text = f"{time}, version {__version__}, pid {os.getpid()}{of_rank}: {shlex.join(['esvit-fast', *argv])}\n"
    text += "".join(traceback.format_exception(type(error), error, error.__traceback__)) + "\n"
    for find in (_in_the_run, _in_a_temporary_file):
        with suppress(OSError):  # there is another place to try, and it is said which one it was
            if path := find(name):
                with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(text)
                return f"in {str(path)!r}"
    print(text, file=sys.stderr)
    return "above, as no file could be written"


def about(error: Exception) -> str:
    """What went wrong, in a line."""
    lines = str(error).strip().splitlines() or [""]
    handed_on = any(line.startswith("Original Traceback") for line in lines)  # by torch, from a worker process
    said = lines[-1] if handed_on else f"{type(error).__name__}: {lines[0]}".removesuffix(": ")
    return said if len(said) <= 300 else f"{said[:300]} …"


def _in_the_run(name: str) -> Path | None:
    if _run is None:
        return None
    _run.mkdir(parents=True, exist_ok=True)
    return _run / name


def _in_a_temporary_file(name: str) -> Path:
    descriptor, path = tempfile.mkstemp(".txt", f"esvit-fast-{name.removesuffix('.txt')}-")
    os.close(descriptor)
    return Path(path)
