"""Memory of the system: what it tells, and what a process keeps of it for its next step."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let the C library give no freed memory back to the system from now on, unasked; whether it does.

    A step on a CPU asks for the same gigabyte as the one before. From the system it comes in pages that have to be
    cleared, one fault each, which costs more than much of the arithmetic. The peak of memory stays what it is.
    Elsewhere than with glibc nothing is done.
    """
    mallopt = _glibc("mallopt")
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))


def give_back_freed_memory() -> None:
    """Let the C library give all freed memory back to the system, once; elsewhere than with glibc nothing is done."""
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)


def system_bytes(file: str | Path, name: str) -> int | None:
    """What a line such as "VmRSS: 5 kB" says, of /proc/self/status for one; None where the system does not tell."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def _glibc(function: str):
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None
