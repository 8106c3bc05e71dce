"""Sets of files: patterns that name them, and reads at positions."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from .encoded import SourceError

SHARDS = (".tar", ".parquet")
"""What sets of files are made of."""
OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""With which files are opened: a pipe that nobody writes to is no wait."""
OPEN_FILES = 64
"""Most files that a source holds open in a process."""

_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_BRACES = re.compile(r"\{([^{}]*)\}")


def is_pattern(spec: str) -> bool:
    """Whether a specification has braces or wildcards."""
    return any(mark in spec for mark in "{*?[")


def expand(spec: str) -> list[Path]:
    """The files that a pattern names: ranges {000..127} and choices {a,b} in their order, wildcards sorted.

    Folders at its beginning that are there as they are written are those, whatever marks their names have.

    Raises:
        SourceError: a named file is missing, or a wildcard finds none.
    """
    files: list[Path] = []
    missing: list[str] = []
    there, rest = _literal(os.path.expanduser(spec))
    for pattern in _braces(spec, rest):
        found = _matching(there, pattern) or _matching(there, pattern.replace("[", "[[]"))
        pattern = os.path.join(there, pattern)
        files += map(Path, found)
        if not found:
            missing.append(pattern)
    if missing:
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        kept = f"; {len(files):,} others are there" if files else ""
        raise SourceError(
            f"data.source={spec!r}: there is no {missing[0]}{more}{kept}; fetch what is missing or name what is there"
        )
    return files


def _literal(pattern: str) -> tuple[str, str]:
    """The folders that a pattern begins with, as far as they are there, and the rest of it."""
    there, rest = "", pattern
    while "/" in rest and os.path.isdir(os.path.join(there, rest[: rest.index("/") + 1])):
        end = rest.index("/") + 1
        there, rest = there + rest[:end], rest[end:]
    return there, rest


def _matching(there: str, pattern: str) -> list[str]:
    if not any(mark in pattern for mark in "*?["):
        path = os.path.join(there, pattern)
        return [path] if os.path.isfile(path) else []
    found = sorted(glob.glob(glob.escape(there) + pattern, recursive=True))
    return _outside_circles(found) if "**" in pattern else found


def encloses(folder: str, name: str) -> bool:
    """Whether a name in a folder is a link to where that lies, or to where a link on the way to it leads."""
    path = Path(folder, name)
    target = os.path.join(os.path.realpath(path), "")
    return path.is_symlink() and any((os.path.realpath(on) + os.sep).startswith(target) for on in path.parents)


def _outside_circles(files: Sequence[str]) -> list[str]:
    """Those to which no link on the way leads back: ** follows such links again and again."""
    folders = {os.path.dirname(file) for file in files}
    ways = {folder: [folder, *map(str, Path(folder).parents)] for folder in folders}
    circles = {folder for folder in folders if any(encloses(*os.path.split(on)) for on in ways[folder])}
    return [file for file in files if os.path.dirname(file) not in circles]


def _braces(spec: str, pattern: str) -> Iterator[str]:
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    choices = match[1].split(",")
    if numbers := _RANGE.fullmatch(match[1]):
        first, last = int(numbers[1]), int(numbers[2])
        if first > last:
            raise SourceError(f"data.source={spec!r}: {match[0]} must rise; write {{{numbers[2]}..{numbers[1]}}}")
        choices = [str(number).zfill(len(numbers[1])) for number in range(first, last + 1)]
    for choice in choices:
        yield from _braces(spec, pattern[: match.start()] + choice + pattern[match.end() :])


class Files:
    """Files read at positions, so that forked processes may share them; few are open at a time, none when pickled."""

    def __init__(self, paths: Sequence[Path | str]):
        self.paths = [str(path) for path in paths]
        self._open = lru_cache(OPEN_FILES)(_Descriptor)

    def __reduce__(self) -> tuple:
        return Files, (self.paths,)

    def read(self, number: int, size: int, offset: int) -> bytes:
        """Bytes of a file; raises OSError if it ends before."""
        file = self._open(self.paths[number])  # kept until read, whatever other threads open
        data = os.pread(file.descriptor, size, offset)
        if len(data) != size:
            raise OSError("the archive ends before the image does")
        return data


class _Descriptor:
    """An open file, closed with its last reference."""

    descriptor = -1

    def __init__(self, path: str):
        self.descriptor = os.open(path, OPEN_FLAGS)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
