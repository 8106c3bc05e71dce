"""Files that appear whole or not at all, with the modes that the user's umask gives to new files."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from ..errors import UserError

_UNFINISHED = re.compile(
    r"\.tmp-.+-[0-9a-f]{8}|\.tmp-(config\.yaml|environment\.json|metrics\.jsonl|model\.safetensors)"
)
"""What `unfinished` and, without the digits, version 0.1 called files of a run that were being written."""


class CheckpointError(UserError):
    """A checkpoint or weights file cannot be written or is not as it was written; the message says which and why."""


def unfinished(path: Path) -> Path:
    """A name beside a path that nobody else has, for what is to be moved to it."""
    return path.with_name(f".tmp-{path.name}-{secrets.token_hex(4)}")


def write_atomic(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """Replace a file so that a reader, or a kill, at any moment finds the old or the new one whole.

    `content` is the new bytes, or a function that writes them to the path that it is given, in a folder of its own.

    Raises:
        CheckpointError: the disk is full or fails; the old file is untouched.
    """
    folder = unfinished(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()  # what a library leaves beside its file if it is killed goes with the folder
        temp, mode = folder / path.name, mode_of_new_files(folder)
        if isinstance(content, bytes):
            temp.write_bytes(content)
        else:
            content(temp)
        set_mode(temp, mode)
        sync(temp)
        temp.replace(path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"path={str(path)!r} could not be written: {error}; check that the disk has room and is writable"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Delete what writers that were killed have left in a run's folder; nobody may be writing there.

    Raises:
        CheckpointError: it cannot be deleted.
    """
    for path in folder.iterdir():
        if _UNFINISHED.fullmatch(path.name):
            try:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            except OSError as error:
                raise CheckpointError(f"path={str(path)!r} cannot be removed: {error.strerror}; remove it") from error


def mode_of_new_files(folder: Path) -> int:
    """The permissions that a file gets which is created in an own folder: the umask can only be read by changing it."""
    probe = folder / "mode"
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    return mode


def set_mode(path: Path, mode: int) -> None:
    """Give a file permissions that it has not got, as libraries that write through a private file make it private."""
    if path.stat().st_mode & 0o777 != mode:
        path.chmod(mode)


def renew_mode(path: Path) -> None:
    """Give a file that is private, as earlier versions left some, the permissions of new ones."""
    if path.stat().st_mode & 0o777 != 0o600:
        return
    folder = unfinished(path)
    folder.mkdir()
    try:
        set_mode(path, mode_of_new_files(folder))
    finally:
        folder.rmdir()


def sync(path: Path) -> None:
    """Force a file or folder to the disk, and out of the page cache, so that verifying it reads the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
