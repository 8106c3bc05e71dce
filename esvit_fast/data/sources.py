"""Opening a source by its specification; image folders and file lists."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from .encoded import (
    SPLITS,
    EncodedSource,
    NoSplit,
    Source,
    SourceError,
    is_image_path,
    label_by_folder,
    nothing_found,
    number_labels,
    split_folder,
)
from .files import encloses, expand, is_pattern, of_split
from .fingerprint import fingerprint

_SHARDS = (".tar", ".parquet")
_LISTS = (".txt", ".csv", ".tsv")
_COMPRESSED = (".gz", ".tgz", ".xz", ".txz", ".bz2", ".tbz2", ".zst", ".7z", ".rar")
_HEADERS = ("path", "file", "filename", "image", "image_path")


def open_source(spec: str, split: str = "train", max_megapixels: float = 64.0) -> Source:
    """Open the images that a specification names.

    Args:
        spec: a folder; a list (.txt, .csv, .tsv) of lines `path` or `path<tab, comma or space>label`, with paths
            relative to it; a .zip or uncompressed .tar; .tar shards or .parquet files, as a folder, list, wildcards
            (`shards/*.tar`) or range (`shards/{000..127}.tar`); a .npy or .npz; `torchvision:NAME@ROOT`; `sample` or
            `sample:COUNT`, the procedural set.
        split: "train" or "test". A folder or archive with train/ and test/ (or val/, validation/) is divided; one
            without them, and a list, are the same images for both. So are shards whose names all begin with train, or
            with test, or with neither.
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
    path = Path(os.path.expanduser(spec))
    if is_pattern(spec) and not path.exists():
        return open_files(spec, expand(spec), split, max_megapixels)
    if not spec or not path.exists():
        away = "is not on this machine; copy it to a disk, and" if "://" in spec else "does not exist;"
        raise SourceError(
            f"data.source={spec!r} {away} pass a folder, a list ({' '.join(_LISTS)}), a .zip or .tar of "
            "images, shards ('*.tar', '{000..127}.tar'), .parquet, .npy, .npz, torchvision:NAME@ROOT, or sample"
        )
    suffix = path.suffix.lower()
    if path.is_dir():
        return open_folder(spec, path, split, max_megapixels)
    if suffix in _LISTS:
        return open_list(spec, path, split, max_megapixels)
    if suffix == ".zip":
        from .zip_source import open_zip

        return open_zip(spec, path, split, max_megapixels)
    if suffix == ".tar":
        from .shards import open_tar

        return open_tar(spec, path, split, max_megapixels)
    if suffix == ".parquet":
        return open_files(spec, [path], split, max_megapixels)
    if suffix in (".npy", ".npz"):
        from .array_source import open_array

        return open_array(spec, path, split, max_megapixels)
    if suffix in _COMPRESSED:
        raise SourceError(
            f"data.source={spec!r} is compressed, so its images cannot be read in random order; "
            "unpack it to an uncompressed .tar or to a folder"
        )
    raise SourceError(
        f"data.source={spec!r} is neither a folder, nor a {' '.join(_LISTS)} list, nor a .zip, .tar, .parquet, .npy or "
        ".npz"
    )


def open_splits(spec: str, max_megapixels: float = 64.0) -> dict[str, Source]:
    """Open a source as `train` and, if it has one, `test`; or, if it is not divided, as `all`."""
    train = open_source(spec, "train", max_megapixels)
    try:
        test = open_source(spec, "test", max_megapixels)
    except NoSplit:
        return {"train": train}
    same = len(train) == len(test) and train.path(0) == test.path(0) and fingerprint(train) == fingerprint(test)
    return {"all": train} if same else {"train": train, "test": test}


def open_files(spec: str, files: Sequence[Path], split: str, max_megapixels: float) -> Source:
    """Open .tar or .parquet files as one set; of several that may be a split, the first with labels.

    Raises:
        SourceError: they are of other or of several kinds, one of them cannot be read, or there is no such split.
    """
    from .parquet_source import open_parquet
    from .shards import open_shards

    kinds = {file.suffix.lower() for file in files}
    if kinds not in ({".tar"}, {".parquet"}):
        raise SourceError(
            f"data.source={spec!r} names {' and '.join(sorted(kinds))} files; name uncompressed .tar or .parquet ones"
        )
    opened = open_shards if kinds == {".tar"} else open_parquet
    sources = [opened(spec, chosen, max_megapixels) for chosen in of_split(spec, files, split)]
    return next((source for source in sources if (source.labels >= 0).any()), sources[0])


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


def open_folder(spec: str, root: Path, split: str, max_megapixels: float) -> Source:
    """Images below a folder; the first sub-folder is the class. All splits share one numbering of classes.

    In a folder without images, .tar or .parquet files are its shards.
    """
    part = split_folder(spec, {name: bool(_folders(root / name)) for name in _folders(root)}, split)
    base = root / part if part else root
    files = list(_walk(base))
    paths = sorted(filter(is_image_path, files))
    if not paths and (shards := sorted(base / file for file in files if file.lower().endswith(_SHARDS))):
        from .shards import check_card

        check_card(spec, base, shards)
        return open_files(spec, shards, split, max_megapixels)
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
    """Relative paths of the visible files, in any order; links are followed, except to a folder that encloses them."""
    for folder, folders, files in os.walk(base, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".") and not encloses(folder, name)]
        prefix = os.path.relpath(folder, base).replace(os.sep, "/")
        visible = (name for name in files if not name.startswith("."))
        yield from visible if prefix == "." else (f"{prefix}/{name}" for name in visible)


def open_list(spec: str, path: Path, split: str, max_megapixels: float) -> Source:
    """Images that a text file lists, one a line, with an optional label that is a name or a number; or shards."""
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
    if rows[0][0].lower().endswith(_SHARDS):
        return open_files(spec, [path.parent / file for file, _ in rows], split, max_megapixels)
    labels, classes = number_labels([label for _, label in rows])
    return FileSource(spec, path.parent, [file for file, _ in rows], labels, classes, max_megapixels)


def _parse_line(line: str) -> tuple[str, str]:
    for separator in ("\t", ",", None):
        parts = line.rsplit(separator, 1)
        if len(parts) == 2:
            file, label = (part.strip().strip('"') for part in parts)
            # a space or comma may also be part of the path
            return (line.strip('"'), "") if is_image_path(label.replace(os.sep, "/")) else (file, label)
    return line.strip('"'), ""
