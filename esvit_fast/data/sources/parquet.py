"""Images in .parquet files, as Hugging Face lays them out: a column of encoded images, and perhaps one of labels."""

from __future__ import annotations

import json
import logging
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from ..decode import reason
from ..layout.rule import lay_out
from ..layout.split_names import SPLIT_COLUMNS, split_of, told_by_column
from .account import Account
from .encoded import EncodedSource, SourceError
from .labels import UNLABELLED, Classed, by_number, by_text, named
from .opened import Opened

try:
    import pyarrow
    import pyarrow.parquet
except ImportError:
    pyarrow = None

CACHE = 256 * 2**20
"""Bytes of unpacked row groups that a process keeps, and at least one row group."""
LARGE = 4 * 2**20
"""Bytes of a row group from which on reading it for one image is worth a warning, where not all can be kept."""

logger = logging.getLogger(__name__)


class Group(NamedTuple):
    """A row group: the file it is in, its number there, and its first image's number in the source."""

    file: int
    number: int
    start: int


class ParquetSource(EncodedSource):
    """Images in .parquet files, in the order of the files and within each.

    A row group is unpacked as a whole, so an image costs as much as its row group, unless that is kept from before.
    """

    def __init__(
        self,
        name: str,
        files: Sequence[Path],
        groups: np.ndarray,
        column: str,
        rows: np.ndarray,
        paths: Sequence[str],
        classed: Classed,
        max_megapixels: float,
    ):
        """Some rows, int64 [N], of those in the files, whose row groups are int64 [G, 3] as `Group`."""
        super().__init__(name, paths, classed, max_megapixels)
        self.files, self.column, self.groups, self.rows = [str(file) for file in files], column, groups, rows
        file_of = groups[np.searchsorted(groups[:, 2], rows, side="right") - 1, 0]
        used, counts = (found.tolist() for found in np.unique(file_of, return_counts=True))
        root = os.path.commonpath([files[number].parent.absolute() for number in used])
        self.shards = [(os.path.relpath(files[n], root), count) for n, count in zip(used, counts, strict=True)]
        self._kept = _Kept()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_kept": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _kept=_Kept())

    def path(self, index: int) -> str:
        """File, and the image's own path or its row."""
        return f"{self.files[self.groups[self._group(index), 0]]}/{self.paths[index]}"

    def read(self, index: int) -> bytes:
        """The encoded image; raises OSError if the file is damaged or holds none."""
        group, row = self._group(index), int(self.rows[index])
        file, number, start = self.groups[group].tolist()
        images = self._kept.get(group)
        if images is None:
            try:
                images = _column(self.files[file], number, self.column)
            except (pyarrow.ArrowException, OSError) as error:
                raise OSError(f"its row group cannot be read: {reason(error)}") from None
            self._kept.put(group, images)
        image = images[row - start] if row - start < len(images) else None
        if image is None or not image.is_valid:
            raise OSError("the file holds no bytes of it")
        self.check_bytes(index, image.as_buffer().size)
        return image.as_py()

    def _group(self, index: int) -> int:
        return int(np.searchsorted(self.groups[:, 2], self.rows[index], side="right")) - 1


class _Kept:
    """Row groups last used, up to `CACHE` bytes."""

    def __init__(self):
        self.groups: OrderedDict[int, Any] = OrderedDict()
        self.lock = Lock()

    def get(self, key: int) -> Any | None:
        with self.lock:
            if key in self.groups:
                self.groups.move_to_end(key)
            return self.groups.get(key)

    def put(self, key: int, images: Any) -> None:
        with self.lock:
            self.groups[key] = images
            while len(self.groups) > 1 and sum(group.nbytes for group in self.groups.values()) > CACHE:
                self.groups.popitem(last=False)


def open_parquet(
    spec: str, files: Sequence[Path], words: Sequence[str], max_megapixels: float, account: Account
) -> Opened:
    """Open .parquet files as one set: a column of bytes, or of structs with `bytes` (and `path`), the one named image
    if there are several; labels are in the column `label`, or the first that Hugging Face calls a ClassLabel.

    Args:
        words: the split of each file, by its name or folder; "" where these tell none. Then a column `split` may.

    Raises:
        SourceError: pyarrow is not installed, a file is damaged, or there is no such column.
    """
    if pyarrow is None:
        raise SourceError(f"data.source={spec!r} needs pyarrow, which is not installed: pip install pyarrow")
    table = _Table([], [], [], [], [])
    facts: _Facts | None = None
    for number, file in enumerate(files):
        try:
            opened = pyarrow.parquet.ParquetFile(file)
            own = _facts(spec, opened.schema_arrow)
            facts = facts or own
            if own[:4] != facts[:4]:
                raise SourceError(
                    f"data.source={spec!r}: {str(file)!r} has other columns for images or labels than "
                    f"{files[0].name!r}; name files of one kind"
                )
            rows = _rows(opened, facts)
        except (pyarrow.ArrowException, OSError) as error:
            why = reason(error).rstrip(".")
            raise SourceError(f"data.source={spec!r}: {str(file)!r} cannot be read: {why}; check it") from None
        if not rows[0]:
            raise SourceError(f"data.source={spec!r}: {str(file)!r} has no rows; leave it out")
        table.add(number, opened.metadata, facts.column, *rows)
    if sum(table.sizes) > CACHE and max(table.sizes) > LARGE:
        logger.warning(
            "data.source=%r has row groups of up to %d MiB, each read as a whole for one image; `esvit-fast data pack` "
            "makes shards that are read image by image",
            *(spec, max(table.sizes) >> 20),
        )
    return _opened(spec, files, words, table, facts, max_megapixels, account)


class _Table(NamedTuple):
    """What is known of all rows, and of all row groups."""

    paths: list[str]
    labels: list[int | str | None]
    splits: list[str]
    groups: list[Group]
    sizes: list[int]

    def add(self, file: int, metadata: Any, column: str, paths: list, labels: list, splits: list) -> None:
        start = len(self.paths)
        for group in range(metadata.num_row_groups):
            self.groups.append(Group(file, group, start))
            start += metadata.row_group(group).num_rows
        for of, more in ((self.paths, paths), (self.labels, labels), (self.splits, splits)):
            of.extend(more)
        self.sizes.extend(_group_sizes(metadata, column))


def _opened(
    spec: str,
    files: Sequence[Path],
    words: Sequence[str],
    table: _Table,
    facts: _Facts,
    max_megapixels: float,
    account: Account,
) -> Opened:
    groups = np.array(table.groups, dtype=np.int64)
    sizes = np.diff(groups[:, 2], append=len(table.paths))
    file_of = np.repeat(groups[:, 0], sizes).tolist()
    told, remarks = [words[file] for file in file_of] if any(words) else None, []
    if told is None and facts.split:
        told, remarks = told_by_column(facts.split, table.splits)
    account = Account("", (), tuple(remarks)).joined(account)
    classed = _numbered(spec, table.labels, facts.classes) if facts.label else None
    labelled = None if classed is None else classed.labels >= 0
    layout = lay_out(spec, table.paths, labelled=labelled, lone=any(words), words=told)
    marks = np.full(len(table.paths), UNLABELLED)  # they had no labels before
    classed = classed or Classed(layout.labels, layout.classes, marks)

    def part(split: str) -> ParquetSource:
        rows = layout.splits[split]
        own = [table.paths[row] for row in rows.tolist()]
        return ParquetSource(spec, files, groups, facts.column, rows, own, classed.of(rows), max_megapixels)

    return Opened(spec, {split: partial(part, split) for split in layout.splits}, layout.account.joined(account))


class _Facts(NamedTuple):
    """Column names: of the images' bytes, of their paths, labels and splits, if there are any; and the classes."""

    column: str
    path: str | None
    label: str | None
    split: str | None
    classes: list[str]


def _facts(spec: str, schema: pyarrow.Schema) -> _Facts:
    found = list(_byte_columns(schema))
    if not found:
        raise SourceError(
            f"data.source={spec!r} has no column of encoded images (bytes, or structs with bytes), only "
            f"{', '.join(schema.names)}; write them as Hugging Face's datasets does"
        )
    name = next((name for name in found if name == "image"), found[0])
    kind = schema.field(name).type
    nested = pyarrow.types.is_struct(kind)
    column = f"{name}.bytes" if nested else name
    path = f"{name}.path" if nested and kind.get_field_index("path") >= 0 else None
    named = _class_names(spec, schema)
    label = next((name for name in ("label", *named) if name in schema.names), None)
    is_text = pyarrow.types.is_string, pyarrow.types.is_large_string
    is_class = pyarrow.types.is_integer, *is_text
    split = next((name for name in schema.names if name.lower() in SPLIT_COLUMNS and name != label), None)
    split = split if split and any(is_kind(schema.field(split).type) for is_kind in is_text) else None
    if label and not any(is_kind(kind := schema.field(label).type) for is_kind in is_class):
        logger.warning("data.source=%r: its column %s is %s, no class: the images are unlabelled", spec, label, kind)
        label = None
    return _Facts(column, path, label, split, named.get(label, []))


def _class_names(spec: str, schema: pyarrow.Schema) -> dict[str, list[str]]:
    """The classes of each column of labels, by Hugging Face's metadata."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        return {key: list(map(str, value["names"])) for key, value in features.items() if "names" in value}
    except (ValueError, TypeError, AttributeError):
        logger.warning("data.source=%r: its Hugging Face metadata is damaged: classes have no names", spec)
        return {}


def _byte_columns(schema: pyarrow.Schema) -> Iterator[str]:
    for field in schema:
        kind = field.type
        if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
            yield field.name


def _rows(opened: pyarrow.parquet.ParquetFile, facts: _Facts) -> tuple[list[str], list[int | str | None], list[str]]:
    """Name, label and split of every row."""
    count = opened.metadata.num_rows
    columns = [name for name in (facts.path, facts.label, facts.split) if name]
    table = opened.read(columns=columns, use_threads=False)
    names: list[str | None] = [None] * count
    if facts.path:
        names = [row["path"] for row in table.column(facts.path.removesuffix(".path")).to_pylist()]
    labels = table.column(facts.label).to_pylist() if facts.label else [None] * count
    splits = table.column(facts.split).to_pylist() if facts.split else [None] * count
    return [name or str(row) for row, name in enumerate(names)], labels, [split_of(split or "") for split in splits]


def _column(file: str, group: int, column: str) -> pyarrow.Array:
    """The encoded images of a row group; without threads, which a fork would lose."""
    with pyarrow.parquet.ParquetFile(file, memory_map=True) as opened:
        images = opened.read_row_group(group, columns=[column], use_threads=False).column(0).combine_chunks()
    return images.field("bytes") if pyarrow.types.is_struct(images.type) else images


def _numbered(spec: str, labels: list[int | str | None], classes: list[str]) -> Classed:
    """Labels as numbers of classes: of those that are given, or of those that occur."""
    if any(isinstance(label, str) for label in labels):
        return by_text(["" if label is None else str(label) for label in labels])
    values = [UNLABELLED if label is None else label for label in labels]
    least, most, count = min(values), max(values), len(classes)
    if least < UNLABELLED or (classes and most >= count) or most >= 2**63:
        there = f" for {count:,} classes" if classes else ""
        raise SourceError(
            f"data.source={spec!r} has labels from {least} to {most}{there}; they must be numbers of classes from 0 "
            "on, -1 for none"
        )
    numbers = np.array(values, dtype=np.int64)
    return named(numbers, classes) if classes else by_number(numbers)


def _group_sizes(metadata: pyarrow.parquet.FileMetaData, column: str) -> Iterator[int]:
    """Unpacked bytes of the images of each row group."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = (group.column(column) for column in range(group.num_columns))
        yield next(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column)
