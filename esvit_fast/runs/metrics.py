"""``metrics.jsonl``: one JSON object a line, appended whole, readable at any moment and after any kill."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError
from .atomic import CheckpointError, write_atomic
from .file_lock import lock_file


class MetricsLog:
    """Appends records to a file, each with one write; a torn last line that a kill left is removed on opening.

    Call `truncate_after` before opening, not while open.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        with _alone(self._descriptor):
            content = path.read_bytes()
            if not content.endswith(b"\n"):
                os.ftruncate(self._descriptor, content.rfind(b"\n") + 1)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record of numbers, strings, lists, mappings and 0-d tensors; a non-finite number becomes null.

        Raises:
            CheckpointError: the disk is full or fails; the file keeps whole lines only.
            ValueError: the log is closed.
        """
        if self._descriptor is None:
            raise ValueError(f"path={str(self.path)!r} is closed; open a new MetricsLog")
        line = json.dumps(_plain(record), allow_nan=False).encode() + b"\n"
        try:
            with _alone(self._descriptor):
                written = os.write(self._descriptor, line)
                if written < len(line):
                    os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
                    raise OSError(0, f"took {written} of {len(line)} bytes")
        except OSError as error:
            raise CheckpointError(
                f"path={str(self.path)!r} could not be written: {error.strerror}; make room on the disk, then resume"
            ) from error

    def close(self) -> None:
        """Close the file; twice is harmless."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextmanager
def _alone(descriptor: int) -> Iterator[None]:
    """Lock a file, where it can be: who opens it would take a line that another process is writing for a torn one."""
    lock_file(descriptor, "LOCK_EX")
    try:
        yield
    finally:
        lock_file(descriptor, "LOCK_UN")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All records of a file; a last line without its newline is being written, or torn, and is left out.

    Raises:
        UserError: another line is not a JSON object.
    """
    return [record for _, record in _lines(path)]


def truncate_after(path: Path, step: int) -> None:
    """Atomically drop the records of steps later than `step`, and a torn last line; a missing file stays missing.

    Records without a step are kept, and the kept ones keep their bytes.

    Raises:
        UserError: a line is not a JSON object.
        CheckpointError: the disk is full or fails; the file is untouched.
    """
    if path.exists():
        kept = [line for line, record in _lines(path) if record.get("step", step) <= step]
        write_atomic(path, b"".join(line + b"\n" for line in kept))


def _lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise UserError(f"path={str(path)!r}: line {number} is not a JSON object: {line[:80]!r}; delete the line")
        found.append((line, record))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _plain(value.item()) if hasattr(value, "item") else value
