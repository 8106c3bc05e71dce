"""Images in uncompressed .tar files, one or thousands, read in any order from their offsets."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..layout.rule import lay_out
from .account import Account, merged
from .encoded import EncodedSource, SourceError, Strings, nothing_found
from .files import Files
from .labels import UNLABELLED, Classed, by_first_folder, by_text, named
from .marks import marks_of
from .opened import Opened
from .samples import one_a_sample
from .shard_index import Index, indices_of
from .tar_members import ShardError

CARD = "shards.json"
"""What `data pack` writes beside its shards: their names and sizes, the classes, and what could not be packed."""


class ShardSource(EncodedSource):
    """Images in .tar files, in the order of the files and within each."""

    def __init__(
        self,
        name: str,
        files: Sequence[Path],
        file_of: np.ndarray,
        paths: Strings,
        places: np.ndarray,
        classed: Classed,
        max_megapixels: float,
    ):
        super().__init__(name, paths, classed, max_megapixels)
        used, position, counts = np.unique(file_of, return_inverse=True, return_counts=True)
        files = [files[number] for number in used.tolist()]
        self.files = Files(files)
        self.places = np.column_stack([position, places])  # [N, 3]: file, offset, bytes
        root = os.path.commonpath([file.parent.absolute() for file in files])
        self.shards = [(os.path.relpath(file, root), count) for file, count in zip(files, counts.tolist(), strict=True)]

    def path(self, index: int) -> str:
        """Shard and member."""
        return f"{self.files.paths[self.places[index, 0]]}/{self.paths[index]}"

    def read(self, index: int) -> bytes:
        """The bytes of a member; a .tar has no checksums of contents."""
        file, offset, size = self.places[index].tolist()
        self.check_bytes(index, size)
        return self.files.read(file, size, offset)


def open_tar(spec: str, file: Path, max_megapixels: float) -> Opened:
    """Open one .tar as an archive: images in the order of their names, divided and labelled by its folders.

    Raises:
        SourceError: it is damaged, compressed, ends early, or has no images.
    """
    try:
        index = indices_of([file])[0]
    except (ShardError, OSError) as error:
        raise SourceError(f"data.source={spec!r} cannot be read as an uncompressed .tar: {_said(error)}") from None
    names = list(index.names)
    account = Account("", tuple(index.left_out))
    if not names:
        raise nothing_found(spec, "the archive", account)
    rows, others = one_a_sample(names, sure=bool(index.texts))
    rows = np.array(sorted(rows, key=names.__getitem__))
    set_ = _Set(spec, [file], [index], None, max_megapixels, is_archive=True)
    return _opened(set_, rows, [names[row] for row in rows.tolist()], account.joined(Account("", tuple(others))))


def open_shards(
    spec: str, files: Sequence[Path], words: Sequence[str], max_megapixels: float, account: Account
) -> Opened:
    """Open .tar files in the convention of WebDataset, as one set in the order in which they are given.

    The label of a sample is what its .cls holds, or `label` of its .json, and otherwise its folder.

    Args:
        words: the split of each file, by its name or folder; "" where these tell none.

    Raises:
        SourceError: a shard is missing, empty, damaged, compressed or ends early, or the labels do not fit the classes
            of the set's card.
    """
    try:
        indices = indices_of(files)
    except (ShardError, OSError) as error:
        raise SourceError(f"data.source={spec!r}: {_culprit(error)}") from None
    for file, index in zip(files, indices, strict=True):
        if not len(index.names):
            there = f" ({index.left_out[0]})" if index.left_out else ""
            raise SourceError(
                f"data.source={spec!r}: shard {str(file)!r} has no images; leave it out or pack it again{there}"
            )
    names = [name for index in indices for name in index.names]
    cards = [read_card(folder) for folder in sorted({file.parent for file in files})]
    card = max(
        filter(None, cards), key=lambda card: len(card["classes"]), default=None
    )  # not that of unlabelled images
    set_ = _Set(spec, files, indices, card, max_megapixels)
    packed = all(card is not None for card in cards)
    # a packed set is what its pack made of it
    of_file = np.repeat(np.arange(len(files)), [len(index.names) for index in indices]).tolist()
    rows, others = (list(range(len(names))), []) if packed else one_a_sample(names, of_file, sure=True)
    paths = ["" if packed else names[row] for row in rows]
    told = [words[of_file[row]] for row in rows] if any(words) else None
    left = Account("", tuple(merged(entry for index in indices for entry in index.left_out)))
    return _opened(set_, np.array(rows), paths, account.joined(left, Account("", tuple(others))), told)


class _Set(NamedTuple):
    spec: str
    files: Sequence[Path]
    indices: list[Index]
    card: dict[str, Any] | None
    max_megapixels: float
    is_archive: bool = False


def _opened(
    of: _Set, rows: np.ndarray, paths: Sequence[str], account: Account, words: Sequence[str] | None = None
) -> Opened:
    """The splits of some rows, by their paths and what the names of their files tell."""
    classed = None
    if of.card is not None or any(index.texts for index in of.indices):
        classed = _labels(of).of(rows)
    layout = lay_out(of.spec, paths, labelled=None if classed is None else classed.labels >= 0, words=words)

    def part(split: str) -> ShardSource:
        chosen = layout.splits[split]
        if classed is not None:
            return _part(of, rows[chosen], classed.of(chosen))
        own = [paths[row] for row in chosen.tolist()]
        marks = marks_of(paths, chosen, around=True) if of.is_archive else by_first_folder(own)
        return _part(of, rows[chosen], replace(Classed(layout.labels, layout.classes).of(chosen), marks=marks))

    parts = {split: partial(part, split) for split in layout.splits}
    return Opened(of.spec, parts, layout.account.joined(account))


def _part(of: _Set, rows: np.ndarray, classed: Classed) -> ShardSource:
    counts = np.array([len(index.names) for index in of.indices])
    file = np.repeat(np.arange(len(counts)), counts)[rows]
    names = Strings.join(index.names for index in of.indices)
    places = np.concatenate([index.places for index in of.indices])[rows]
    whole = len(rows) == len(names) and bool((np.diff(rows) == 1).all())
    paths = names if whole else Strings(names[row] for row in rows.tolist())
    source = ShardSource(of.spec, of.files, file, paths, places, classed, of.max_megapixels)
    source.shards = [] if of.is_archive else source.shards  # it may be renamed
    return source


def read_card(folder: Path) -> dict[str, Any] | None:
    """The card that `data pack` wrote into a folder; None if there is none."""
    try:
        card = json.loads((folder / CARD).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise SourceError(f"{str(folder / CARD)!r} is damaged: {error}; pack the images again") from None
    return card if isinstance(card, dict) and {"complete", "shards", "classes"} <= card.keys() else None


def check_card(spec: str, folder: Path, files: Sequence[Path]) -> None:
    """Compare a folder with the card in it.

    Raises:
        SourceError: packing has not finished, or shards are missing, of another size, or not on the card.
    """
    card = read_card(folder)
    if card is None:
        return
    if not card["complete"]:
        raise SourceError(
            f"data.source={spec!r} has not been packed to the end; give its `esvit-fast data pack` again, it goes on"
        )
    listed, there = {shard["file"]: shard["bytes"] for shard in card["shards"]}, {file.name: file for file in files}
    wrong = [f"{name} is missing" for name in listed if name not in there]
    wrong += [f"{name} is new" for name in there if name not in listed]
    sizes = ((name, size, there[name].stat().st_size) for name, size in listed.items() if name in there)
    wrong += [f"{name} has {is_:,} bytes instead of {size:,}" for name, size, is_ in sizes if size != is_]
    if wrong:
        more = f", and {len(wrong) - 1:,} more differ" if len(wrong) > 1 else ""
        raise SourceError(f"data.source={spec!r}: {wrong[0]}{more}, says {CARD}; copy or pack the set again")


def _labels(of: _Set) -> Classed:
    """What the texts say that the shards hold: numbers of the card's classes, or names or numbers of classes."""
    texts = sorted({text for index in of.indices for text in index.texts})
    number = {text: n for n, text in enumerate(texts)}
    rows = np.concatenate([np.array([*(number[t] for t in i.texts), len(texts)])[i.labels] for i in of.indices])
    classes = of.card["classes"] if of.card is not None else []
    if not classes:
        return by_text([*texts, ""]).of(rows)
    given = by_text([*texts, ""])
    by_name = zip(texts, given.labels.tolist(), strict=False)
    values = np.array([int(text) if text.isdecimal() else label for text, label in by_name], dtype=np.int64)
    if len(values) and (most := int(values.max())) >= (count := len(classes)):
        raise SourceError(f"data.source={of.spec!r} has label {most}, but {CARD} has {count} classes; repair it")
    return named(np.append(values, UNLABELLED), classes).of(rows)


def _culprit(error: ShardError | OSError) -> str:
    file = error.file if isinstance(error, ShardError) else error.filename
    return f"shard {str(file)!r} {_said(error)}"


def _said(error: ShardError | OSError) -> str:
    return str(error) if isinstance(error, ShardError) else f"{error.strerror or error}; check it"
