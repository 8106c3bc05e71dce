"""Opening a source by its specification; image folders and file lists."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .encoded import (
    SPLITS,
    UNLABELLED,
    EncodedSource,
    Source,
    SourceError,
    is_image_path,
    label_by_folder,
    nothing_found,
    split_folder,
)

_LISTS = (".txt", ".csv", ".tsv")
_COMPRESSED = (".gz", ".tgz", ".xz", ".txz", ".bz2", ".tbz2", ".zst", ".7z", ".rar")
_HEADERS = ("path", "file", "filename", "image", "image_path")


def open_source(spec: str, split: str = "train", max_megapixels: float = 64.0) -> Source:
    """Open the images that a specification names.

    Args:
        spec: a folder; a list (.txt, .csv, .tsv) of lines `path` or `path<tab, comma or space>label`, with paths
            relative to it; a .zip or uncompressed .tar; `torchvision:NAME@ROOT`; `sample` or `sample:COUNT`, the
            procedural set.
        split: "train" or "test". A folder or archive with train/ and test/ (or val/, validation/) is divided; one
            without them, and a list, are the same images for both.
        max_megapixels: larger images are refused before they are decoded.

    Raises:
        SourceError: nothing is there, it cannot be read, or it has no images.
    """
    scheme, _, rest = spec.partition(":")
    if scheme == "sample":
        from .sample_set import open_sample

        return open_sample(spec, rest, split)
    if scheme == "torchvision":
        from .torchvision_source import open_torchvision

        return open_torchvision(spec, rest, split, max_megapixels)
    path = Path(spec).expanduser()
    if not spec or not path.exists():
        raise SourceError(
            f"data.source={spec!r} does not exist; pass a folder, a list ({' '.join(_LISTS)}), a .zip or .tar of "
            "images, torchvision:NAME@ROOT, or sample"
        )
    suffix = path.suffix.lower()
    if path.is_dir():
        return open_folder(spec, path, split, max_megapixels)
    if suffix in _LISTS:
        return open_list(spec, path, max_megapixels)
    if suffix in (".zip", ".tar"):
        from .archives import open_archive

        return open_archive(spec, path, split, max_megapixels)
    if suffix in _COMPRESSED:
        raise SourceError(
            f"data.source={spec!r} is compressed, so its images cannot be read in random order; "
            "unpack it to an uncompressed .tar or to a folder"
        )
    raise SourceError(f"data.source={spec!r} is neither a folder, nor a {' '.join(_LISTS)} list, nor a .zip or .tar")


class FileSource(EncodedSource):
    """Image files under a root folder."""

    def __init__(
        self, name: str, root: Path, paths: list[str], labels: list[int], classes: list[str], max_megapixels: float
    ):
        super().__init__(name, paths, labels, classes, max_megapixels)
        self.root = str(root)

    def path(self, index: int) -> str:
        """File name of an image."""
        return os.path.join(self.root, self.paths[index])

    def read(self, index: int) -> bytes:
        """The bytes of a file."""
        with open(self.path(index), "rb") as file:
            self.check_bytes(index, os.fstat(file.fileno()).st_size)
            return file.read()


def open_folder(spec: str, root: Path, split: str, max_megapixels: float) -> FileSource:
    """Images below a folder; the first sub-folder is the class. All splits share one numbering of classes."""
    part = split_folder(spec, {name: bool(_folders(root / name)) for name in _folders(root)}, split)
    base = root / part if part else root
    paths = sorted(_walk(base))
    if not paths:
        raise nothing_found(spec, f"{base}/")
    labels, classes = label_by_folder(paths)
    if part and classes:
        splits = {name for names in SPLITS.values() for name in names if (root / name).is_dir()}
        everywhere = sorted(set(classes).union(*(_folders(root / name) for name in splits)))
        labels, classes = label_by_folder(paths, everywhere)
    return FileSource(spec, base, paths, labels, classes, max_megapixels)


def _folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _walk(base: Path) -> Iterator[str]:
    """Relative paths of the visible images, in any order; links are followed, except to a folder that encloses them."""
    for folder, folders, files in os.walk(base, followlinks=True):
        here = os.path.realpath(folder) + os.sep
        folders[:] = [name for name in folders if not name.startswith(".") and not _encloses(folder, name, here)]
        prefix = os.path.relpath(folder, base).replace(os.sep, "/")
        for name in files:
            path = name if prefix == "." else f"{prefix}/{name}"
            if is_image_path(path):
                yield path


def _encloses(folder: str, name: str, here: str) -> bool:
    path = os.path.join(folder, name)
    return os.path.islink(path) and here.startswith(os.path.realpath(path) + os.sep)


def open_list(spec: str, path: Path, max_megapixels: float) -> FileSource:
    """Images that a text file lists, one a line, with an optional label that is a name or a number."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise SourceError(f"data.source={spec!r} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    rows = [_parse_line(line) for line in lines if line]
    if rows and rows[0][0].lower() in _HEADERS:
        rows = rows[1:]
    if not rows:
        raise SourceError(f"data.source={spec!r} lists no images; write one path a line, a label behind a tab or comma")
    if not (path.parent / rows[0][0]).is_file():
        raise SourceError(
            f"data.source={spec!r} lists {rows[0][0]!r}, which is not a file in {path.parent}/; "
            "write paths that are absolute or relative to the list"
        )
    labels, classes = _number([label for _, label in rows])
    return FileSource(spec, path.parent, [file for file, _ in rows], labels, classes, max_megapixels)


def _parse_line(line: str) -> tuple[str, str]:
    for separator in ("\t", ",", None):
        parts = line.rsplit(separator, 1)
        if len(parts) == 2:
            file, label = (part.strip().strip('"') for part in parts)
            # a space or comma may also be part of the path
            return (line.strip('"'), "") if is_image_path(label.replace(os.sep, "/")) else (file, label)
    return line.strip('"'), ""


def _number(labels: list[str]) -> tuple[list[int], list[str]]:
    given = set(labels) - {""}
    if given and all(label.isdecimal() for label in given):
        count = max(map(int, given)) + 1
        return [int(label) if label else UNLABELLED for label in labels], [str(n) for n in range(count)]
    classes = sorted(given)
    number = {name: label for label, name in enumerate(classes)}
    return [number.get(label, UNLABELLED) for label in labels], classes
