"""Locks of the kernel on an open file, where the system and the file system have them."""

from __future__ import annotations

try:
    import fcntl
except ImportError:  # not a system with flock
    fcntl = None


def lock_file(descriptor: int, *names: str) -> bool | None:
    """Apply the operations of flock with these names, as "LOCK_EX": whether it was done; None where it cannot be."""
    try:
        fcntl.flock(descriptor, sum(getattr(fcntl, name) for name in names))
    except BlockingIOError:
        return False
    except (AttributeError, OSError):  # no such call, or not on this file system
        return None
    return True
