"""What a source is, and what folders, lists and archives of encoded images share: paths, classes and splits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from .decode import CorruptImage, decode_image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
SPLITS = {"train": ("train",), "test": ("test", "val", "validation")}
"""The folders that hold each split, by preference."""
UNLABELLED = -1
MOST_CLASSES = 10**6
"""A number from here on is no class but an identity."""
_NO_LABEL = {"", str(UNLABELLED)}

_SPLIT_FOLDERS = tuple(name for names in SPLITS.values() for name in names)


class SourceError(ValueError):
    """A source cannot be opened; the message names it and the remedy."""


class NoSplit(SourceError):
    """A source is divided into splits, but not into this one."""


def check_split(split: str) -> None:
    """Raise SourceError unless a split has that name."""
    if split not in SPLITS:
        raise SourceError(f"split={split!r} must be one of {', '.join(SPLITS)}")


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

    @classmethod
    def of(cls, buffer: bytes, ends: np.ndarray) -> Strings:
        """From its buffers: UTF-8, and where each string ends in it, int64 [N]."""
        strings = cls(())
        strings.buffer, strings.ends = buffer, ends
        return strings

    @classmethod
    def join(cls, parts: Iterable[Strings]) -> Strings:
        """One sequence after the other."""
        parts = list(parts)
        starts = np.cumsum([0, *(len(part.buffer) for part in parts)])
        ends = [part.ends + start for part, start in zip(parts, starts, strict=False)]
        return cls.of(b"".join(part.buffer for part in parts), np.concatenate(ends))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = self.ends[index - 1] if index else 0
        return self.buffer[start : self.ends[index]].decode("utf-8", "surrogateescape")


class EncodedSource:
    """Images that are read as bytes and decoded; subclasses read the bytes."""

    def __init__(
        self, name: str, paths: Iterable[str], labels: Sequence[int], classes: Sequence[str], max_megapixels: float
    ):
        self.name, self.classes, self.max_megapixels = name, tuple(classes), max_megapixels
        self.paths = paths if isinstance(paths, Strings) else Strings(paths)
        self.labels = np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> np.ndarray:
        """Pixels, uint8 RGB [H, W, 3]; raises CorruptImage if they cannot be read."""
        return decode_image(self.encoded(index), self.path(index), self.max_megapixels)

    def encoded(self, index: int) -> bytes:
        """The encoded image; raises CorruptImage if it cannot be read."""
        try:
            return self.read(index)
        except OSError as error:
            raise CorruptImage(self.path(index), error.strerror or str(error)) from None

    def label(self, index: int) -> int:
        """Class of an image, -1 if it has none."""
        return int(self.labels[index])

    def path(self, index: int) -> str:
        """What to call an image in messages."""
        return self.paths[index]

    def read(self, index: int) -> bytes:
        """The encoded image; raises OSError if it cannot be read."""
        raise NotImplementedError

    def check_bytes(self, index: int, size: int) -> None:
        """Refuse an encoded image larger than any permitted image is when decoded with 16 bits and alpha."""
        if size > 8e6 * self.max_megapixels + 2**20:
            raise CorruptImage(
                self.path(index), f"has {size} bytes, too many for max_megapixels={self.max_megapixels:g}; shrink it"
            )


def encoded_and_pixels(source: Source, index: int) -> tuple[bytes | None, np.ndarray]:
    """An image as its source holds it, None if that is not encoded, and its pixels; read once.

    Raises:
        CorruptImage: it cannot be read.
    """
    if not isinstance(source, EncodedSource):
        return None, source.image(index)
    data = source.encoded(index)
    return data, decode_image(data, source.path(index), source.max_megapixels)


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
        NoSplit: there are splits, but not this one.
    """
    check_split(split)
    only_splits = all(name in _SPLIT_FOLDERS for name in has_folders)
    splits = [name for name in _SPLIT_FOLDERS if name in has_folders and (has_folders[name] or only_splits)]
    fitting = [name for name in SPLITS[split] if name in splits]
    if splits and not fitting:
        raise NoSplit(
            f"data.source={spec!r} has {', '.join(splits)}/ but no {' or '.join(SPLITS[split])}/; "
            f"add that folder, or pass images that are not divided into splits"
        )
    return max(fitting, key=lambda name: has_folders[name], default=None)  # the first of the best


def select_split(spec: str, paths: list[str], split: str) -> tuple[list[int], list[int], list[str]]:
    """Which of the paths in an archive are in a split, their labels, and the classes of all splits."""
    while (
        len(tops := {path.split("/", 1)[0] for path in paths}) == 1
        and tops.isdisjoint(_SPLIT_FOLDERS)
        and "/" in paths[0]
    ):
        paths = [path.split("/", 1)[1] for path in paths]  # a folder around everything
    has_folders: dict[str, bool] = {}
    for path in paths:
        top, *below = path.split("/")
        if below:
            has_folders[top] = has_folders.get(top, False) or len(below) > 1
    part = split_folder(spec, has_folders, split)
    if part is None:
        return list(range(len(paths))), *label_by_folder(paths)
    inside = [path.partition("/")[2] for path in paths if path.partition("/")[0] in _SPLIT_FOLDERS]
    chosen = [row for row, path in enumerate(paths) if path.startswith(f"{part}/")]
    _, classes = label_by_folder(inside)
    return chosen, *label_by_folder([paths[row].partition("/")[2] for row in chosen], classes)


def number_labels(labels: Sequence[str]) -> tuple[list[int], list[str]]:
    """Labels as numbers, -1 for "" and "-1", and class names: numbers of classes stay, others count as names."""
    given = set(labels) - _NO_LABEL
    if given and all(label.isdecimal() and len(label) < 20 and int(label) < MOST_CLASSES for label in given):
        count = max(map(int, given)) + 1
        return [UNLABELLED if label in _NO_LABEL else int(label) for label in labels], [str(n) for n in range(count)]
    classes = sorted(given)
    number = {name: label for label, name in enumerate(classes)}
    return [number.get(label, UNLABELLED) for label in labels], classes


def nothing_found(spec: str, what: str) -> SourceError:
    """The error for a source without images."""
    return SourceError(
        f"data.source={spec!r}: {what} has no images; looked for {' '.join(e[1:] for e in EXTENSIONS)} files "
        "in it and its folders, hidden ones excepted; check the path"
    )
