"""Locks of the kernel on an open file, where the system and the file system have them."""

from __future__ import annotations


def lock_file(descriptor: int, *names: str) -> bool | None:
    """Apply the operations of flock with these names, as "LOCK_EX": whether it was done; None where it cannot be."""
    try:
        import fcntl

        fcntl.flock(descriptor, sum(getattr(fcntl, name) for name in names))
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # not of every system, nor of every file system
        return None
    return True
