"""The procedural set `sample`: ten kinds of patterned shapes, 32 px, drawn with NumPy, for demos and tests.

A class is a shape together with the pattern that fills it. Position, size, turn, colours, background and noise are
random: neighbours in raw pixels seldom tell the class, but shape and pattern survive crops.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from functools import partial

import numpy as np

from .encoded import SourceError
from .opened import Opened

logger = logging.getLogger(__name__)

SIZE = 32
"""Side of an image in pixels."""
COUNTS = {"train": 8000, "test": 2000}
"""Images of each split by default."""

_CHUNK = 500
# the random parameters of an image
_POSE, _FILL, _NOISE, _GROUND = slice(0, 4), slice(4, 13), 13, slice(14, 21)
_PARAMETERS = _GROUND.stop
_WORDS = _PARAMETERS + SIZE * SIZE * 3 // 8  # 64-bit words of randomness per image: parameters, then a byte per value
_KEY = {"train": 0, "test": 1}

Grid = np.ndarray  # float32 [N, S, S]


class SampleSet:
    """Images of the procedural set, uint8 in memory."""

    def __init__(self, name: str, split: str, count: int):
        self.name, self.split = name, split
        self.classes = tuple(_CLASSES)
        self.images = draw_samples(split, count)

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> np.ndarray:
        """Pixels, uint8 RGB [32, 32, 3]."""
        return self.images[index]

    def label(self, index: int) -> int:
        """Class of an image."""
        return index % len(_CLASSES)

    def path(self, index: int) -> str:
        """What to call an image in messages."""
        return f"{self.name}/{self.split}/{index}"


def open_sample(spec: str, count: str) -> Opened:
    """Open `sample` or `sample:COUNT`, COUNT being the size of the training split.

    Raises:
        SourceError: COUNT is no positive number, or too large a one.
    """
    if count and not (count.isdecimal() and len(count) < 10 and int(count) > 0):
        raise SourceError(
            f"data.source={spec!r} must be sample or sample:COUNT, with at least 1 training image and below 10**9"
        )
    if os.path.isdir(spec) and os.environ.get("RANK", "0") == "0":
        logger.warning(
            "data.source=%r is the drawn set, and not the folder %s/ here; pass ./%s for that", spec, spec, spec
        )
    counts = COUNTS | ({"train": int(count)} if count else {})
    return Opened(spec, {split: partial(SampleSet, "sample", split, counts[split]) for split in counts})


def draw_samples(split: str, count: int) -> np.ndarray:
    """The first images of a split, uint8 [count, 32, 32, 3]; image i is the same for every count."""
    generator = np.random.Philox(key=[_KEY[split], 0x5A3])
    images = np.empty((count, SIZE, SIZE, 3), dtype=np.uint8)
    for start in range(0, count, _CHUNK):
        part = images[start : start + _CHUNK]
        words = generator.random_raw(len(part) * _WORDS).reshape(len(part), _WORDS)
        draws = ((words[:, :_PARAMETERS] >> np.uint64(40)) * 2.0**-24).astype(np.float32)
        noise = words[:, _PARAMETERS:].astype("<u8").view(np.uint8).reshape(part.shape)
        labels = np.arange(start, start + len(part)) % len(_CLASSES)
        for label, (shape, pattern) in enumerate(_CLASSES.values()):
            rows = labels == label
            part[rows] = _draw(shape, pattern, draws[rows], noise[rows])
    return images


def _draw(shape: Callable, pattern: Callable, draws: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Images of one class, uint8 [N, S, S, 3], from float32 parameters [N, P] and noise uint8 [N, S, S, 3]."""
    parameters = draws.T[:, :, None, None]  # [P, N, 1, 1]
    noise = noise.astype(np.float32) / 255
    axis = (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE * 2 - 1
    x, y = axis[None, None, :], axis[None, :, None]  # [-1, 1]
    size, across, down, angle = parameters[_POSE]
    radius, angle = 0.6 + 0.35 * size, 3.2 * (angle - 0.5)
    reach = 1.25 - radius
    a, b = _turn((x - reach * (2 * across - 1)) / radius, (y - reach * (2 * down - 1)) / radius, angle)
    coverage = _coverage(shape(a, b) * radius)
    period, *phase, swap, level, hue_1, hue_2, grey_1, grey_2 = parameters[_FILL]
    period = (4.2 + 1.3 * period) * 2 / SIZE  # 4.2 to 5.5 px
    s, t = _turn(x / period, y / period, angle)
    fill = pattern(s + phase[0], t + phase[1], noise[..., 0])[..., None]
    step = np.where(swap < 0.5, 0.25, -0.25)
    level = 0.2 + 0.6 * level
    first, second = _colour(hue_1, grey_1, level - step), _colour(hue_2, grey_2, level + step)
    ground = _background(x, y, parameters)
    image = ground + (first + (second - first) * fill - ground) * coverage
    image += (noise - 0.5) * (0.04 + 0.12 * parameters[_NOISE, ..., None])
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _background(x: Grid, y: Grid, parameters: np.ndarray) -> np.ndarray:
    """A gradient from one colour towards another, [N, S, S, 3]."""
    angle, *colours = parameters[_GROUND]
    angle = 2 * math.pi * angle
    along = 0.5 + 0.5 * (x * np.cos(angle) + y * np.sin(angle))
    start, end = _colour(*colours[:3]), _colour(*colours[3:])
    return start + 0.8 * (end - start) * np.clip(along, 0, 1)[..., None]


def _coverage(distance: Grid) -> np.ndarray:
    """Share of each pixel that lies inside an outline, [N, S, S, 1]."""
    return np.clip(0.5 - distance * (SIZE / 2), 0, 1)[..., None]


def _colour(hue: np.ndarray, saturation: np.ndarray, level: np.ndarray) -> np.ndarray:
    """RGB of a hue and saturation in [0, 1) and of mean brightness `level`, [N, 1, 1, 3]."""
    wave = np.cos(2 * math.pi * (hue[..., None] + np.array([0, 1 / 3, 2 / 3], dtype=np.float32)))
    return np.clip(level[..., None] + 0.2 * saturation[..., None] * wave, 0, 1)


def _turn(x: Grid, y: Grid, angle: np.ndarray) -> tuple[Grid, Grid]:
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


# shapes: distance to the outline, negative inside, for coordinates in units of the shape's radius, y pointing down


def _disk(x: Grid, y: Grid) -> Grid:
    return np.hypot(x, y) - 0.9


def _box(x: Grid, y: Grid, width: float, height: float) -> Grid:
    return np.maximum(abs(x) - width, abs(y) - height)


def _square(x: Grid, y: Grid) -> Grid:
    return _box(x, y, 0.78, 0.78)


def _triangle(x: Grid, y: Grid) -> Grid:
    return np.maximum(abs(x) * (math.sqrt(3) / 2) - y * 0.5, y) - 0.52


def _ring(x: Grid, y: Grid) -> Grid:
    return abs(np.hypot(x, y) - 0.66) - 0.28


def _cross(x: Grid, y: Grid) -> Grid:
    return np.minimum(_box(x, y, 0.95, 0.36), _box(x, y, 0.36, 0.95))


def _star(x: Grid, y: Grid) -> Grid:
    sector = math.pi / 5
    angle = abs((np.arctan2(x, -y) + sector) % (2 * sector) - sector)  # from the nearest tip
    px, py = np.hypot(x, y) * np.sin(angle), np.hypot(x, y) * np.cos(angle)
    inner = (0.5 * math.sin(sector), 0.5 * math.cos(sector))
    dx, dy = inner[0], inner[1] - 1.0
    return (px * -dy + (py - 1.0) * dx) / math.hypot(dx, dy)


def _crescent(x: Grid, y: Grid) -> Grid:
    return np.maximum(np.hypot(x, y) - 0.95, 0.62 - np.hypot(x - 0.48, y))


def _bars(x: Grid, y: Grid) -> Grid:
    return np.maximum(abs(y) - 0.9, abs(abs(x) - 0.52) - 0.34)


def _heart(x: Grid, y: Grid) -> Grid:
    s, t = _turn(x, y - 0.08, math.pi / 4)
    lobes = np.hypot(abs(x) - 0.41, y + 0.33) - 0.58
    return np.minimum(lobes, _box(s, t, 0.58, 0.58))


def _arrow(x: Grid, y: Grid) -> Grid:
    head = np.maximum(abs(x) * 0.75 - (y + 0.95) * 0.66, y - 0.12)
    return np.minimum(head, _box(x, y - 0.5, 0.36, 0.45))


# patterns: share of the second colour in [0, 1], for coordinates in periods


def _wave(t: Grid) -> Grid:
    return np.clip(0.5 + 1.6 * np.sin(2 * math.pi * t), 0, 1)


def _dots(x: Grid, y: Grid, _: Grid) -> Grid:
    return np.clip(0.5 + 6 * (0.3 - np.hypot(x % 1 - 0.5, y % 1 - 0.5)), 0, 1)


def _checker(x: Grid, y: Grid, _: Grid) -> Grid:
    return np.clip(0.5 + 2.5 * np.sin(math.pi * x * 1.3) * np.sin(math.pi * y * 1.3), 0, 1)


def _upright_stripes(x: Grid, y: Grid, _: Grid) -> Grid:
    return _wave(x)


def _level_stripes(x: Grid, y: Grid, _: Grid) -> Grid:
    return _wave(y)


def _arcs(x: Grid, y: Grid, _: Grid) -> Grid:
    return _wave(np.hypot(x, y))


def _grid(x: Grid, y: Grid, _: Grid) -> Grid:
    return np.clip(0.5 + 5 * (0.17 - np.minimum(abs(x % 1 - 0.5), abs(y % 1 - 0.5))), 0, 1)


def _speckle(x: Grid, y: Grid, grain: Grid) -> Grid:
    return np.clip(0.5 + 6 * (grain - 0.6), 0, 1)


def _bricks(x: Grid, y: Grid, _: Grid) -> Grid:
    joint = abs((x * 0.7 + 0.5 * (np.floor(y * 1.2) % 2)) % 1 - 0.5) / 0.7
    return np.clip(0.5 + 5 * (0.17 - np.minimum(joint, abs(y * 1.2 % 1 - 0.5) / 1.2)), 0, 1)


def _zigzag(x: Grid, y: Grid, _: Grid) -> Grid:
    return _wave(y + 0.9 * abs(x % 1.6 / 1.6 - 0.5) * 2)


def _blotches(x: Grid, y: Grid, _: Grid) -> Grid:
    return np.clip(0.5 + 2 * (np.sin(3.1 * x + 1.7 * np.sin(2.3 * y)) * np.sin(2.9 * y + 1.9 * np.sin(2.7 * x))), 0, 1)


_CLASSES: dict[str, tuple[Callable, Callable]] = {
    "disk": (_disk, _dots),
    "square": (_square, _checker),
    "triangle": (_triangle, _level_stripes),
    "ring": (_ring, _arcs),
    "cross": (_cross, _grid),
    "star": (_star, _speckle),
    "crescent": (_crescent, _bricks),
    "bars": (_bars, _upright_stripes),
    "heart": (_heart, _blotches),
    "arrow": (_arrow, _zigzag),
}
