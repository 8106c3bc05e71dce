"""Images in uncompressed .tar files, one or thousands, read in any order from their offsets."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .encoded import (
    UNLABELLED,
    EncodedSource,
    SourceError,
    Strings,
    label_by_folder,
    nothing_found,
    number_labels,
    select_split,
)
from .files import Files
from .shard_index import Index, ShardError, indices_of

CARD = "shards.json"
"""What `data pack` writes beside its shards: their names and sizes, the classes, and what could not be packed."""


class ShardSource(EncodedSource):
    """Images in .tar files, in the order of the files and within each."""

    def __init__(
        self,
        name: str,
        files: Sequence[Path],
        counts: Sequence[int],
        paths: Strings,
        places: np.ndarray,
        labels: Sequence[int],
        classes: Sequence[str],
        max_megapixels: float,
    ):
        super().__init__(name, paths, labels, classes, max_megapixels)
        self.files = Files(files)
        self.places = np.column_stack([np.repeat(np.arange(len(files)), counts), places])  # [N, 3]: file, offset, bytes
        root = os.path.commonpath([file.parent.absolute() for file in files])
        self.shards = [(os.path.relpath(file, root), count) for file, count in zip(files, counts, strict=True)]

    def path(self, index: int) -> str:
        """Shard and member."""
        return f"{self.files.paths[self.places[index, 0]]}/{self.paths[index]}"

    def read(self, index: int) -> bytes:
        """The bytes of a member; a .tar has no checksums of contents."""
        file, offset, size = self.places[index].tolist()
        self.check_bytes(index, size)
        return self.files.read(file, size, offset)


def open_tar(spec: str, file: Path, split: str, max_megapixels: float) -> ShardSource:
    """Open one .tar as an archive: images in the order of their names, train/ and test/ in it are splits.

    Raises:
        SourceError: it is damaged, compressed, ends early, or has no images.
    """
    try:
        index = indices_of([file])[0]
    except (ShardError, OSError) as error:
        raise SourceError(f"data.source={spec!r} cannot be read as an uncompressed .tar: {_said(error)}") from None
    names = list(index.names)
    if not names:
        raise nothing_found(spec, "the archive")
    order = sorted(range(len(names)), key=names.__getitem__)
    chosen, labels, classes = select_split(spec, [names[row] for row in order], split)
    rows = [order[row] for row in chosen]
    if index.texts:
        labels, classes = _labels(spec, [index], None)
        labels = labels[rows]
    paths = Strings(names[row] for row in rows)
    source = ShardSource(spec, [file], [len(rows)], paths, index.places[rows], labels, classes, max_megapixels)
    source.shards = []  # an archive is no shard: it may be renamed
    return source


def open_shards(spec: str, files: Sequence[Path], max_megapixels: float) -> ShardSource:
    """Open .tar files in the convention of WebDataset, as one set in the order in which they are given.

    The label of a sample is what its .cls holds, or `label` of its .json, and otherwise its folder.

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
            raise SourceError(f"data.source={spec!r}: shard {str(file)!r} has no images; leave it out or pack it again")
    paths = Strings.join(index.names for index in indices)
    card = read_card(files[0].parent)
    if card is not None or any(index.texts for index in indices):
        labels, classes = _labels(spec, indices, card)
    else:
        labels, classes = label_by_folder(paths)
    counts, places = [len(index.names) for index in indices], np.concatenate([index.places for index in indices])
    return ShardSource(spec, files, counts, paths, places, labels, classes, max_megapixels)


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


def _labels(spec: str, indices: Sequence[Index], card: dict[str, Any] | None) -> tuple[np.ndarray, list[str]]:
    """Labels int64 [N] and classes, from the texts that the shards hold."""
    texts = sorted({text for index in indices for text in index.texts})
    numbers, classes = number_labels(texts)
    if card is not None and card["classes"]:
        if len(classes) > (count := len(card["classes"])):
            raise SourceError(
                f"data.source={spec!r} has label {classes[-1]}, but {CARD} has {count} classes; repair it"
            )
        classes = card["classes"]
    number = dict(zip(texts, numbers, strict=True))
    of_shard = (np.array([*(number[text] for text in index.texts), UNLABELLED])[index.labels] for index in indices)
    return np.concatenate(list(of_shard)), classes


def _culprit(error: ShardError | OSError) -> str:
    file = error.file if isinstance(error, ShardError) else error.filename
    return f"shard {str(file)!r} {_said(error)}"


def _said(error: ShardError | OSError) -> str:
    return str(error) if isinstance(error, ShardError) else f"{error.strerror or error}; check it"
