"""What a source is, and what folders, lists and archives of encoded images share: paths, classes and splits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from ...errors import UserError
from ..decode import CorruptImage, decode_image
from ..layout.split_names import SPLITS
from .account import Account
from .content import EXTENSIONS
from .labels import Classed


class SourceError(UserError):
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

    account = Account()
    """What was understood of where they lie, and what was left out."""

    def __init__(self, name: str, paths: Iterable[str], classed: Classed, max_megapixels: float):
        self.name, self.classes, self.max_megapixels = name, tuple(classed.classes), max_megapixels
        self.paths = paths if isinstance(paths, Strings) else Strings(paths)
        self.labels, self.marks = classed.labels, classed.marks

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


def nothing_found(spec: str, what: str, account: Account = Account()) -> SourceError:  # noqa: B008
    """The error for a source without images, which says what is there instead."""
    there = f"; there are: {'; '.join(map(str, account.left_out))}" if account.left_out else ""
    return SourceError(
        f"data.source={spec!r}: {what} has no images; looked for {' '.join(e[1:] for e in EXTENSIONS)} files "
        f"in it and its folders, hidden ones excepted{there}; check the path"
    )
