"""One writer a run: a lock in its folder, which ends with the process that holds it, whatever ends that.

The file `run.lock` tells who holds it; the lock itself is the kernel's (flock), so that a file which a killed process
has left is no obstacle. Where a file system has no such locks, the file decides: one of a process that is gone is
removed, one of another machine is not.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..parallel.ranks import Ranks, gather
from .file_lock import lock_file

LOCK = "run.lock"
_PATIENCE = 2.0
"""Seconds for a process that is just ending, or that only looks."""
_HELD: set[int] = set()


class Busy(UserError):
    """Somebody else writes to this folder."""


@contextmanager
def only_writer(out: Path, ranks: Ranks) -> Iterator[None]:
    """Be the run that writes to a folder, which exists; the main rank holds the lock for all, and all call this.

    Raises:
        Busy: a run is going on there; who and since when. On all ranks.
        UserError: the disk is full or fails.
    """
    descriptor, refused = None, []
    if ranks.is_main:
        try:
            descriptor = _acquire(out)
        except Busy as error:
            refused = [str(error)]
    try:
        if refused := gather(refused):
            raise Busy(refused[0])
        yield
    finally:
        if descriptor is not None:
            if _is_named(descriptor, out / LOCK):  # else it is somebody else's, in a folder that was made anew
                (out / LOCK).unlink()  # while it is held, so that nobody waits for a file without a name
            _HELD.discard(descriptor)
            os.close(descriptor)


def check_no_writer(out: Path, ranks: Ranks) -> None:
    """Find out early, and without a trace in the folder, whether a run is going on there; all ranks call this.

    Raises:
        Busy: as `only_writer`.
    """
    refused = []
    if ranks.is_main:
        try:
            os.close(_open_free(out, os.O_RDONLY, "LOCK_SH")[0])  # shared: who looks is in nobody's way
        except (FileNotFoundError, NotADirectoryError):
            pass
        except Busy as error:
            refused = [str(error)]
    if refused := gather(refused):
        raise Busy(refused[0])


def _acquire(out: Path) -> int:
    """An open, locked file that tells of this process."""
    path = out / LOCK
    me = {"pid": os.getpid(), "host": platform.node(), "born": _born(os.getpid()), "since": time.time()}
    while True:
        descriptor, locked = _open_free(out, os.O_RDWR | os.O_CREAT, "LOCK_EX")
        _write(descriptor, path, json.dumps(me).encode())
        if locked or _stays(path, me):
            _HELD.add(descriptor)
            return descriptor
        os.close(descriptor)


def _open_free(out: Path, flags: int, kind: str) -> tuple[int, bool | None]:
    """The file, open and locked, once nobody else writes to the folder; and whether it could be locked."""
    path, until = out / LOCK, time.monotonic() + _PATIENCE
    while True:
        descriptor = os.open(path, flags, 0o666)
        locked = lock_file(descriptor, kind, "LOCK_NB")
        free = locked or (locked is None and not _is_live(_owner(path)))
        if free and _is_named(descriptor, path):
            return descriptor, locked
        os.close(descriptor)
        if not free and time.monotonic() > until:
            raise Busy(_busy(out))
        time.sleep(0.05)


def _write(descriptor: int, path: Path, text: bytes) -> None:
    try:
        os.ftruncate(descriptor, 0)
        if os.pwrite(descriptor, text, 0) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        os.close(descriptor)
        raise UserError(
            f"path={str(path)!r} could not be written: {error.strerror}; make room on the disk, then go on"
        ) from error


def _is_named(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of that name: who held it may have removed it meanwhile."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _stays(path: Path, me: dict[str, Any]) -> bool:
    """Whether nobody else has taken, at the same moment, a file that cannot be locked."""
    time.sleep(0.2)
    return _owner(path) == me


def _busy(out: Path) -> str:
    owner = _owner(out / LOCK)
    who = ""
    if _is_live(owner):  # else it is of an earlier one
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["since"]))
        who = f" (pid {owner['pid']} on {owner['host']}, since {since})"
    away = owner and owner["host"] != platform.node()
    ended = f"; if that process has ended, remove {LOCK}" if away else ""
    return f"out={str(out)!r}: a run is going on here{who}; wait for it, stop it, or choose another folder{ended}"


def _owner(path: Path) -> dict[str, Any]:
    """Who wrote the file; empty if nobody has yet."""
    for _ in range(20):  # it is locked first, and then written
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(path.read_bytes())
            return {name: found[name] for name in ("pid", "host", "born", "since")}
        time.sleep(0.01)
    return {}


def _is_live(owner: dict[str, Any]) -> bool:
    """Whether the process that wrote the file may still be at work; one of another machine may."""
    if not owner:
        return False
    if owner["host"] != platform.node():
        return True
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return owner["born"] == _born(owner["pid"])  # else its number was given away


def _born(pid: int) -> str | None:
    """When a process was started, in the kernel's ticks, where the system tells."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return None


def _let_go() -> None:
    """A child that outlives this process, such as a loader's worker, must not hold its lock on."""
    for descriptor in _HELD:
        os.close(descriptor)
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
