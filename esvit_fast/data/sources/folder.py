"""Folders of image files, or of shards."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..layout.rule import Layout, lay_out
from .account import Account, left_out
from .content import HEAD, is_hidden, is_junk, sort_out
from .encoded import EncodedSource, SourceError, nothing_found
from .files import OPEN_FLAGS, SHARDS, encloses
from .labels import Classed
from .marks import SPLIT_FOLDERS, marks_of
from .opened import Opened

IMAGES_A_SHARD = 100
"""Images in a folder for each .tar or .parquet there, above which these are copies or leftovers, and not the set."""


class FileSource(EncodedSource):
    """Image files under a root folder."""

    def __init__(self, name: str, root: Path | str, paths: Sequence[str], classed: Classed, max_megapixels: float):
        super().__init__(name, paths, classed, max_megapixels)
        self.root = str(root)

    def path(self, index: int) -> str:
        """File name of an image."""
        return os.path.join(self.root, self.paths[index])

    def read(self, index: int) -> bytes:
        """The bytes of a file; raises OSError if it is none, or cannot be read."""
        with open(os.open(self.path(index), OPEN_FLAGS), "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise OSError("is no file but a folder, pipe or device")
            self.check_bytes(index, facts.st_size)
            return file.read()


def open_folder(spec: str, root: Path, max_megapixels: float) -> Opened:
    """Images below a folder, in the order of their paths; in one without images, its .tar or .parquet files.

    Raises:
        SourceError: it holds neither, or both and few images, or cannot be read.
    """
    files, in_splits, walked = _walk(spec, root)
    files.sort()
    rows, others = sort_out(files, partial(_head, root, files))
    paths = [files[row] for row in rows]
    shards = sorted(root / file for file in files if file.lower().endswith(SHARDS) and not is_hidden(file))
    if shards and 0 < len(paths) < IMAGES_A_SHARD * len(shards):
        raise SourceError(
            f"data.source={spec!r} holds {len(paths):,} images, {paths[0]!r} first, and {len(shards):,} shards, "
            f"{str(shards[0].relative_to(root))!r} first; pass {str(root / '**' / f'*{shards[0].suffix}')!r}, "
            "or a folder of images alone"
        )
    if shards and not paths:
        from .shard_files import open_files

        kept = [entry for entry in others if not entry.why.startswith("archives")]
        opened = open_files(spec, shards, max_megapixels, root, walked.joined(Account("", tuple(kept))))
        return replace(opened, remedy=f"add {shards[0].suffix} files in a folder of such a name")
    account = walked.joined(Account("", tuple(others)))
    if not paths:
        raise nothing_found(spec, f"{root}/", account)
    layout = lay_out(spec, paths)
    part = partial(_part, spec, root, paths, layout, in_splits, max_megapixels)
    parts = {split: partial(part, split) for split in layout.splits}
    return Opened(spec, parts, layout.account.joined(account))


def _part(
    spec: str, root: Path, paths: list[str], layout: Layout, in_splits: set[str], max_megapixels: float, split: str
) -> FileSource:
    rows = layout.splits[split]
    marks = marks_of(paths, rows, in_splits)
    chosen = [paths[row] for row in rows.tolist()]
    tops = {path.partition("/")[0] if "/" in path else "" for path in chosen}
    if split != "all" and len(tops) == 1 and "" not in tops:  # names within a split do not name it
        (top,) = tops
        root, chosen = root / top, [path.removeprefix(f"{top}/") for path in chosen]
    classed = replace(Classed(layout.labels, layout.classes).of(rows), marks=marks)
    return FileSource(spec, root, chosen, classed, max_megapixels)


def _walk(spec: str, root: Path) -> tuple[list[str], set[str], Account]:
    """Relative paths of all files, in any order; names of folders in those of splits; and what cannot be followed.

    Links are followed, except to a folder that encloses them.
    """
    files: list[str] = []
    in_splits: set[str] = set()
    closed: list[str] = []
    circles: list[str] = []
    nowhere: list[str] = []
    special: list[str] = []
    hidden: list[str] = []

    def note(folder: str, entry: os.DirEntry) -> None:
        path = f"{folder}{entry.name}"
        if entry.is_dir():
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                hidden.extend([] if is_junk(path) else [f"{path}/"])
            elif entry.is_symlink() and encloses(os.path.join(root, folder), entry.name):
                circles.append(f"{path}/")
            else:
                waiting.append(f"{path}/")
                in_splits.update({entry.name} if folder[:-1] in SPLIT_FOLDERS else ())
        elif entry.is_file():
            files.append(path)
        elif entry.is_symlink() and not os.path.exists(entry.path):
            nowhere.append(path)
        else:
            special.append(path)

    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    try:
                        note(folder, entry)
                    except OSError:  # a link to itself, or through what may not be entered
                        nowhere.append(f"{folder}{entry.name}")
        except OSError as error:
            if not folder:
                raise SourceError(f"data.source={spec!r} cannot be read: {error.strerror or error}; check it") from None
            closed.append(folder)
    found = (
        *left_out("folders that cannot be read", sorted(closed)),
        *left_out("links that lead nowhere", sorted(nowhere)),
        *left_out("links to folders that enclose them", sorted(circles)),
        *left_out("pipes, sockets or devices", sorted(special)),
        *left_out("hidden", sorted(hidden)),
    )
    return files, in_splits, Account("", found)


def _head(root: Path, files: Sequence[str], row: int) -> bytes:
    with open(os.open(os.path.join(root, files[row]), OPEN_FLAGS), "rb") as file:
        return file.read(HEAD)
