"""Small images, on disk and in memory."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from esvit_fast.data import CorruptImage


def pixels(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    """A smooth random image."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def write_images(root: Path, names: list[str]) -> Path:
    """PNG (lossless) or JPEG files; image n shows pixels(n)."""
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(seed)).save(path)
    return root


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Kolmogorov and Smirnov's between two samples of one size, in units of what one pair in a thousand exceeds."""
    grid = np.union1d(a, b)
    below = [np.searchsorted(np.sort(sample), grid, "right") / len(sample) for sample in (a, b)]
    return abs(below[0] - below[1]).max() / (1.95 * (2 / len(a)) ** 0.5)


class ArraySource:
    """Images in memory; those in `broken` cannot be read."""

    name, classes = "arrays", ()

    def __init__(self, length: int, broken: frozenset[int] = frozenset()):
        self.length, self.broken = length, broken

    def __len__(self) -> int:
        return self.length

    def image(self, index: int) -> np.ndarray:
        if index in self.broken:
            raise CorruptImage(self.path(index), "is damaged")
        return pixels(index)

    def label(self, index: int) -> int:
        return -1

    def path(self, index: int) -> str:
        return f"{index}.png"


def encoded(seed: int) -> bytes:
    """A PNG of pixels(seed)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed)).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(image: Image.Image | np.ndarray, kind: str = "JPEG", **options) -> bytes:
    """An image as a JPEG, or another kind of file."""
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def damaged(data: bytes) -> bytes:
    """A JPEG with the header and the end of another one, but tables that no decoder accepts."""
    at = data.index(b"\xff\xc4") + 5
    return data[:at] + b"\xff" * 16 + data[at + 16 :]
