"""Lists: text files that name images or shards, with labels and splits in further columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..layout.rule import lay_out
from ..layout.split_names import SPLIT_COLUMNS, has_both, split_of, told_by_column
from .account import Account, left_out
from .content import extension, is_image_name
from .encoded import SourceError
from .files import SHARDS
from .folder import FileSource
from .labels import Classed, by_text
from .opened import Opened

LISTS = (".txt", ".csv", ".tsv")

_PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "image_file")
_PATHS += ("image_name", "image_filename", "img", "img_path", "img_name", "img_file", "imagepath", "imagename")
_LABELS = ("label", "class", "category", "target", "label_name", "class_name", "classname", "category_name", "y")
_LABELS += ("labels", "class_id", "label_id", "category_id", "class_label", "species", "classes")
_NO_LABELS = ("text", "caption", "description", "title", "width", "height", "size", "bytes", "bbox", "objects", "url")
_NO_LABELS += ("id", "image_id", "md5", "sha256", "hash", "index", "")
_DELIMITERS = {".csv": (",", ";", "\t"), ".tsv": ("\t", ",", ";"), ".txt": ("\t", ",", ";")}


class _Row(NamedTuple):
    file: str
    label: str = ""
    split: str | None = None


def open_list(spec: str, path: Path, max_megapixels: float) -> Opened:
    """Images that a text file lists, one a line, in their order, with labels that are names or numbers; or shards.

    A .csv or .tsv may have quoted fields and a first line that names its columns: those of the path, the label and the
    split are known by common names (`path`, `file_name`, `label`, `class`, `split`, …). Images without labels, and
    without a column of splits, are divided and labelled by their folders.

    Raises:
        SourceError: it is no UTF-8 text, lists nothing, or names files that are not there.
    """
    rows, account = _read(spec, path)
    if not rows:
        raise SourceError(f"data.source={spec!r} lists no images; write one path a line, a label behind a tab or comma")
    files = _found(spec, path, rows)
    if files[0].lower().endswith(SHARDS):
        from .shard_files import open_files

        return open_files(spec, [path.parent / file for file in files], max_megapixels, None, account)
    given = by_text([row.label for row in rows])
    labelled = given.labels >= 0
    here = f"{path.parent.absolute()}/".replace("\\", "/")
    names = [file.removeprefix(here) for file in files]
    words = None if rows[0].split is None else [row.split for row in rows]
    layout = lay_out(spec, names, labelled=labelled if labelled.any() else None, lone=False, words=words)
    classed = given if labelled.any() else Classed(layout.labels, layout.classes, given.labels)
    part = partial(_part, spec, path.parent, files, classed, max_megapixels)
    parts = {split: partial(part, chosen) for split, chosen in layout.splits.items()}
    return Opened(spec, parts, layout.account.joined(account))


def _part(
    spec: str, root: Path, files: Sequence[str], classed: Classed, max_megapixels: float, rows: np.ndarray
) -> FileSource:
    return FileSource(spec, root, [files[row] for row in rows.tolist()], classed.of(rows), max_megapixels)


def _found(spec: str, path: Path, rows: Sequence[_Row]) -> list[str]:
    """The files, with / for \\ where a list was written on Windows; the first is looked for."""
    files = [row.file for row in rows]
    first = next((file for file in files if "\\" in file), None)
    if first is not None and not (path.parent / first).is_file():
        files = [file.replace("\\", "/") for file in files]
    if not (path.parent / files[0]).is_file():
        raise SourceError(
            f"data.source={spec!r} lists {files[0]!r}, which is not a file in {path.parent}/; "
            "write paths that are absolute or relative to the list, with / between folders"
        )
    return files


def _read(spec: str, path: Path) -> tuple[list[_Row], Account]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"data.source={spec!r} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    kind = path.suffix.lower()
    delimiter = next((d for d in _DELIMITERS[kind] if _path_column(_cells(first, d)) is not None and d in first), None)
    if delimiter is None and kind != ".txt":
        delimiter = next((d for d in _DELIMITERS[kind] if d in first), None)
    if delimiter is None:
        lines = [line.strip() for line in lines if line.strip()]
        lines = lines[1:] if lines and lines[0].strip('"').lower() in _PATHS else lines
        whole = bool(lines) and (path.parent / lines[0].strip('"')).is_file()
        rows = [_by_line(line, whole) for line in lines]
        return rows[1:] if rows and rows[0].file.lower() in _PATHS else rows, Account()
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
        records = [cells for record in reader if any(cells := [cell.strip() for cell in record])]
    except csv.Error as error:
        where = f"line {reader.line_num:,}"
        raise SourceError(f"data.source={spec!r} cannot be read at {where}: {error}; check its quotes") from None
    return _of_columns(records, delimiter, path.parent)


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip().strip('"') for cell in line.split(delimiter)]


def _path_column(names: Sequence[str]) -> int | None:
    """The column whose name says that it holds paths."""
    lower = [name.lower() for name in names]
    return next((lower.index(name) for name in _PATHS if name in lower), None)


def _of_columns(records: list[list[str]], delimiter: str, root: Path) -> tuple[list[_Row], Account]:
    """Rows of a table, and what was understood of its columns."""
    names = [name.lower() for name in records[0]]
    at = _path_column(names)
    by_content = next((n for n, cell in enumerate(records[-1]) if _is_file_name(cell)), 0)
    if at is None and (any(map(_is_file_name, names)) or (root / records[0][0]).is_file()):
        if _is_file_name(names[-1]) and (root / delimiter.join(records[0])).is_file():  # a comma in a path
            return [_Row(delimiter.join(cells)) for cells in records], Account()
        names = []
    body = records[1:] if names else records
    at = by_content if at is None else at
    width = max(map(len, records))
    rest = [n for n in range(width) if n != at]
    if names:
        label, split = (next((names.index(n) for n in of if n in names), None) for of in (_LABELS, SPLIT_COLUMNS))
        free = [n for n in rest if n != split and (n >= len(names) or names[n] not in _NO_LABELS)]
        label = free[0] if label is None and len(free) == 1 else label
    else:
        split = next((n for n in rest[1:] if has_both(split_of(_cell(cells, n)) for cells in body)), None)
        label = next((n for n in rest if n != split), None)
    unused = [names[n] if n < len(names) else f"number {n + 1}" for n in rest if n not in (label, split)]
    said = [f"columns {', '.join(unused)} not used"] if unused else []
    rows = [_Row(_cell(cells, at), _cell(cells, label)) for cells in body]
    doubts: list[str] = []
    if split is not None:
        column = names[split] if names else f"number {split + 1}"
        words, doubts = told_by_column(column, [split_of(_cell(cells, split)) for cells in body])
        rows = [row._replace(split=word) for row, word in zip(rows, words or repeat(None), strict=False)]
        said += [] if has_both(words or ()) else [f"column {column} divides nothing"]
    bare = [str(row) for row in rows if not row.file]
    account = Account(", ".join(said), tuple(left_out("rows without a path", bare)), tuple(doubts))
    return [row for row in rows if row.file], account


def _cell(cells: Sequence[str], column: int | None) -> str:
    return cells[column] if column is not None and column < len(cells) else ""


def _is_file_name(name: str) -> bool:
    return is_image_name(name.replace("\\", "/")) or extension(name) in SHARDS


def _by_line(line: str, whole: bool) -> _Row:
    """A path, and perhaps a label behind a tab, comma or space, all of which may also be part of the path.

    Args:
        whole: the first line is a path alone, and so are those that begin with no image's name.
    """
    for delimiter in ("\t", ",", " "):
        if delimiter not in line:
            continue
        if '"' in line and delimiter != " ":
            cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
            return _Row(cells[0].strip(), cells[1].strip() if len(cells) > 1 else "")
        file, label = (part.strip().strip('"') for part in line.rsplit(delimiter, 1))
        alone = _is_file_name(label) or (whole and not _is_file_name(file))
        return _Row(line.strip('"')) if alone else _Row(file, label)
    return _Row(line.strip('"'))
