"""What a source is, and what folders, lists and archives of encoded images share: paths, classes and splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from .decode import CorruptImage, decode_image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
SPLITS = {"train": ("train",), "test": ("test", "val", "validation")}
"""The folders that hold each split, by preference."""
UNLABELLED = -1

_SPLIT_FOLDERS = tuple(name for names in SPLITS.values() for name in names)


class SourceError(ValueError):
    """A source cannot be opened; the message names it and the remedy."""


class Source(Protocol):
    """Images by number. Picklable, and the same after a fork or in a spawned process."""

    name: str
    classes: tuple[str, ...]
    """Class names by label; empty if the images have none."""

    def __len__(self) -> int:
        """Number of images."""

    def image(self, index: int) -> np.ndarray:
        """Pixels, uint8 RGB [H, W, 3]; raises CorruptImage if they cannot be read."""

    def label(self, index: int) -> int:
        """Class of an image, -1 if it has none."""

    def path(self, index: int) -> str:
        """What to call an image in messages."""


class Strings:
    """An immutable sequence of strings in two buffers: forked workers share it, where a list's counts would copy it."""

    def __init__(self, strings: Iterable[str]):
        encoded = [s.encode("utf-8", "surrogateescape") for s in strings]
        self.ends = np.cumsum([len(e) for e in encoded], dtype=np.int64)
        self.buffer = b"".join(encoded)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return self.buffer[start : self.ends[index]].decode("utf-8", "surrogateescape")


class EncodedSource:
    """Images that are read as bytes and decoded; subclasses read the bytes."""

    def __init__(
        self, name: str, paths: Iterable[str], labels: Sequence[int], classes: Sequence[str], max_megapixels: float
    ):
        self.name, self.classes, self.max_megapixels = name, tuple(classes), max_megapixels
        self.paths, self.labels = Strings(paths), np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> np.ndarray:
        """Pixels, uint8 RGB [H, W, 3]; raises CorruptImage if they cannot be read."""
        path = self.path(index)
        try:
            data = self.read(index)
        except OSError as error:
            raise CorruptImage(path, error.strerror or str(error)) from None
        return decode_image(data, path, self.max_megapixels)

    def label(self, index: int) -> int:
        """Class of an image, -1 if it has none."""
        return int(self.labels[index])

    def path(self, index: int) -> str:
        """What to call an image in messages."""
        return self.paths[index]

    def read(self, index: int) -> bytes:
        """The encoded image."""
        raise NotImplementedError

    def check_bytes(self, index: int, size: int) -> None:
        """Refuse an encoded image larger than any permitted image is when decoded with 16 bits and alpha."""
        if size > 8e6 * self.max_megapixels + 2**20:
            raise CorruptImage(
                self.path(index), f"has {size} bytes, too many for max_megapixels={self.max_megapixels:g}; shrink it"
            )


def fingerprint(source: Source) -> str:
    """A hash of the names of all images in order, and of their labels if those are known without reading images.

    Names in folders, lists and archives are relative, so that it stays the same where they are moved.
    """
    names = getattr(source, "paths", None) or [source.path(index) for index in range(len(source))]
    labels = getattr(source, "labels", None)
    digest = hashlib.sha256()
    for index, name in enumerate(names):
        label = "" if labels is None else labels[index]
        digest.update(f"{name}\0{label}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def is_image_path(path: str) -> bool:
    """Whether a /-separated relative path names a visible image file."""
    parts = path.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and parts[-1].lower().endswith(EXTENSIONS)


def label_by_folder(paths: Iterable[str], classes: Sequence[str] | None = None) -> tuple[list[int], list[str]]:
    """Labels by the first folder of relative paths, -1 outside of any; and class names: as given, or else sorted."""
    names = [path.split("/", 1)[0] if "/" in path else "" for path in paths]
    classes = sorted(set(names) - {""}) if classes is None else list(classes)
    number = {name: label for label, name in enumerate(classes)}
    return [number.get(name, UNLABELLED) for name in names], classes


def split_folder(spec: str, has_folders: dict[str, bool], split: str) -> str | None:
    """The top-level folder that holds a split, or None if the source is not divided.

    A folder called train, test, val or validation is a split if it holds folders itself, or if no folder of another
    name stands beside it; else it is a class that happens to be called so. Of several, one with classes is preferred.

    Args:
        has_folders: for each top-level folder, whether there are folders in it.

    Raises:
        SourceError: there are splits, but not this one.
    """
    if split not in SPLITS:
        raise SourceError(f"split={split!r} must be one of {', '.join(SPLITS)}")
    only_splits = all(name in _SPLIT_FOLDERS for name in has_folders)
    splits = [name for name in _SPLIT_FOLDERS if name in has_folders and (has_folders[name] or only_splits)]
    fitting = [name for name in SPLITS[split] if name in splits]
    if splits and not fitting:
        raise SourceError(
            f"data.source={spec!r} has {', '.join(splits)}/ but no {' or '.join(SPLITS[split])}/; "
            f"add that folder, or pass images that are not divided into splits"
        )
    return max(fitting, key=lambda name: has_folders[name], default=None)  # the first of the best


def nothing_found(spec: str, what: str) -> SourceError:
    """The error for a source without images."""
    return SourceError(
        f"data.source={spec!r}: {what} has no images; looked for {' '.join(e[1:] for e in EXTENSIONS)} files "
        "in it and its folders, hidden ones excepted; check the path"
    )
