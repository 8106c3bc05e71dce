"""Sets of files: patterns that name them, the split that their names tell, and reads at positions."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from .encoded import SPLITS, SourceError, check_split

OPEN_FILES = 64
"""Most files that a source holds open in a process."""

_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_BRACES = re.compile(r"\{([^{}]*)\}")
_SPLIT = re.compile(rf"({'|'.join(name for names in SPLITS.values() for name in names)})(?![a-z])", re.IGNORECASE)


def is_pattern(spec: str) -> bool:
    """Whether a specification has braces or wildcards."""
    return any(mark in spec for mark in "{*?[")


def expand(spec: str) -> list[Path]:
    """The files that a pattern names: ranges {000..127} and choices {a,b} in their order, wildcards sorted.

    Raises:
        SourceError: a named file is missing, or a wildcard finds none.
    """
    files: list[Path] = []
    missing: list[str] = []
    for pattern in _braces(spec, os.path.expanduser(spec)):
        if any(mark in pattern for mark in "*?["):
            found = sorted(glob.glob(pattern, recursive=True))
            found = _outside_circles(found) if "**" in pattern else found
        else:
            found = [pattern] if os.path.isfile(pattern) else []
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


def of_split(spec: str, files: Sequence[Path], split: str) -> list[list[Path]]:
    """The files of a split, by preference where several names mean it; all, if their names tell fewer than two splits.

    Raises:
        SourceError: no split has that name.
    """
    check_split(split)
    named: dict[str, list[Path]] = {}
    for file in files:
        match = _SPLIT.match(file.name)
        named.setdefault(match[1].lower() if match else "", []).append(file)
    fitting = [named[name] for name in SPLITS[split] if name in named]
    if "" in named or len([names for names in SPLITS.values() if set(names) & named.keys()]) < 2:
        return [list(files)]
    return fitting


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
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
