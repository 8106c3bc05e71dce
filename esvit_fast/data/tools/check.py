"""What a set of images is like, and what is wrong with it: every image is read once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from .. import deep
from ..decode import CorruptImage, format_and_mode
from ..loading.loader import too_many_corrupt
from ..sources.encoded import Source, encoded_and_pixels
from .each import each

NEAR = 3
"""Most of the 64 bits of a difference hash in which two images that look alike differ."""
CLOSE = 8
"""Most levels of 255 by which the colours of 4 x 4 fields of such images differ, on average."""
EXAMPLES = 5
_FLAT = 8  # set bits of the hash of an image with too little in it to be compared
_SAME_BAND = 256  # neighbours compared among images that share 16 bits


class Seen(NamedTuple):
    """What one image is: `why` it cannot be read, or the rest."""

    index: int
    path: str
    why: str | None = None
    size: int = 0
    width: int = 0
    height: int = 0
    kind: str = ""
    mode: str = ""
    digest: bytes = bytes(16)
    look: int = 0
    fields: bytes = bytes(48)


def see(source: Source, index: int) -> Seen:
    """Read and decode an image, as training does."""
    path = source.path(index)
    try:
        data, pixels = encoded_and_pixels(source, index)
    except CorruptImage as error:
        return Seen(index, path, error.why)
    kind, mode = "pixels", "RGB"
    if data is not None:
        kind, mode = format_and_mode(data)
    content = repr(pixels.shape).encode() + pixels.tobytes() if data is None else data
    digest = hashlib.blake2b(content, digest_size=16).digest()
    fields = Image.fromarray(pixels).resize((4, 4), Image.Resampling.BOX).tobytes()
    height, width = pixels.shape[:2]
    size = pixels.nbytes if data is None else len(data)
    return Seen(index, path, None, size, width, height, kind, mode, digest, difference_hash(pixels), fields)


def difference_hash(pixels: np.ndarray) -> int:
    """64 bits that say where an image gets brighter from left to right, on a grid of 8 x 8; uint8 [H, W, 3]."""
    grey = Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX)
    grid = np.asarray(grey, dtype=np.int16)
    return int.from_bytes(np.packbits(grid[:, 1:] > grid[:, :-1]).tobytes(), "big")


class Survey:
    """All images of a source, seen."""

    def __init__(self, source: Source, workers: int = -1, progress: Callable[[int], None] = lambda done: None):
        count = len(source)
        self.source = source
        self.sizes = np.zeros((count, 3), dtype=np.int64)  # bytes, width, height
        self.digests = np.zeros(count, dtype="V16")
        self.looks = np.zeros(count, dtype=np.uint64)
        self.fields = np.zeros((count, 48), dtype=np.uint8)
        self.failures: list[Seen] = []
        self.kinds: Counter[str] = Counter()
        self.modes: Counter[str] = Counter()
        for seen in each(see, source, range(count), workers):
            if seen.why is None:
                self.sizes[seen.index] = seen.size, seen.width, seen.height
                self.digests[seen.index], self.looks[seen.index] = np.void(seen.digest), seen.look
                self.fields[seen.index] = np.frombuffer(seen.fields, dtype=np.uint8)
                self.kinds[seen.kind] += 1
                self.modes[seen.mode] += 1
            else:
                self.failures.append(seen)
            progress(seen.index + 1)
        self.readable = np.flatnonzero(self.sizes[:, 1])

    def report(self, max_corrupt_share: float) -> dict[str, Any]:
        """All findings, as plain JSON, with remarks for people; `verdict` is good, usable or unusable."""
        facts: dict[str, Any] = {
            "images": len(self.source),
            "unreadable": [{"index": seen.index, "path": seen.path, "why": seen.why} for seen in self.failures],
            "bytes": int(self.sizes[:, 0].sum()),
            "formats": dict(self.kinds.most_common()),
            "modes": dict(self.modes.most_common()),
            **self._distributions(),
            "classes": self._classes(),
            "copies": self._copies(),
            "look_alikes": self._look_alikes(),
        }
        too_many = too_many_corrupt(len(self.failures), len(self.source), max_corrupt_share)
        unusable = too_many or not len(self.readable)
        remarks = list(_remarks(facts, max_corrupt_share, too_many))
        return facts | {"verdict": "unusable" if unusable else "usable" if remarks else "good", "remarks": remarks}

    def _distributions(self) -> dict[str, dict[str, float]]:
        width, height = self.sizes[self.readable, 1], self.sizes[self.readable, 2]
        columns = {
            "width": width,
            "height": height,
            "short_side": np.minimum(width, height),
            "megapixels": width * height / 1e6,
            "aspect": width / height,
        }
        points = {"min": 0, "median": 50, "max": 100}
        return {
            name: {point: round(float(np.percentile(values, at)), 4) for point, at in points.items()}
            for name, values in columns.items()
            if len(values)
        }

    def _classes(self) -> dict[str, Any] | None:
        names = self.source.classes
        if not names:
            return None
        labels = np.array([self.source.label(index) for index in range(len(self.source))])
        counts = np.bincount(labels[labels >= 0], minlength=len(names))
        filled = counts[counts > 0]
        smallest, largest = int(np.where(counts, counts, counts.max() + 1).argmin()), int(counts.argmax())
        return {
            "count": len(names),
            "images": {name: int(count) for name, count in zip(names, counts, strict=True)},
            "smallest": names[smallest],
            "largest": names[largest],
            "imbalance": round(float(counts.max() / filled.min()), 2) if len(filled) else None,
            "empty": [name for name, count in zip(names, counts, strict=True) if not count],
            "unlabelled": int((labels < 0).sum()),
        }

    def _copies(self) -> dict[str, Any]:
        """Images with the same bytes as an earlier one."""
        rows = self.readable[np.argsort(self.digests[self.readable], kind="stable")]
        same = self.digests[rows[1:]] == self.digests[rows[:-1]]
        pairs = np.column_stack([rows[:-1], rows[1:]])[same]
        labels = [[self.source.label(row) for row in pair] for pair in pairs.tolist()]
        return {
            "count": len(pairs),
            "labelled_otherwise": sum(a != b for a, b in labels),
            "examples": self._paths(pairs),
        }

    def _look_alikes(self) -> dict[str, Any]:
        """Images that are no copies, but hardly differ from an earlier one in their difference hash and colours."""
        earlier = np.full(len(self.source), -1)
        for found in near_pairs(self.looks[self.readable]):
            pairs = self.readable[found]
            pairs = pairs[earlier[pairs[:, 1]] < 0]
            one, other = (self.fields[pairs[:, side]].astype(np.int16) for side in (0, 1))
            pairs = pairs[
                (abs(one - other).mean(axis=1) <= CLOSE) & (self.digests[pairs[:, 0]] != self.digests[pairs[:, 1]])
            ]
            earlier[pairs[:, 1]] = pairs[:, 0]
        later = np.flatnonzero(earlier >= 0)
        return {"count": len(later), "examples": self._paths(np.column_stack([earlier[later], later]))}

    def _paths(self, pairs: np.ndarray) -> list[list[str]]:
        return [[self.source.path(row) for row in pair] for pair in pairs[:EXAMPLES].tolist()]


def copies_between(one: Survey, other: Survey) -> int:
    """Images of the second survey with the same bytes as one of the first."""
    return int(np.isin(other.digests[other.readable], one.digests[one.readable]).sum())


def near_pairs(looks: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs of hashes uint64 [N] that differ in at most `NEAR` bits: int64 [P, 2] with P < N each, pairs rising.

    Two such hashes share one of their four 16-bit bands; of more than 256 that share one, only neighbours are compared.
    """
    rich = np.flatnonzero(np.minimum(bits := _bits(looks), 64 - bits) >= _FLAT)
    for band in range(4):
        keys = (looks[rich] >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = rich[np.argsort(keys, kind="stable")]
        keys, ordered = np.sort(keys), looks[order]
        for step in range(1, min(_SAME_BAND, len(order))):
            together = np.flatnonzero(keys[step:] == keys[:-step])
            if not len(together):
                break
            near = together[_bits(ordered[together] ^ ordered[together + step]) <= NEAR]
            yield np.sort(np.column_stack([order[near], order[near + step]]), axis=1)


def _bits(words: np.ndarray) -> np.ndarray:
    """Set bits of uint64 [N], int64 [N]."""
    return np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1, dtype=np.int64)


def _remarks(facts: dict[str, Any], max_corrupt_share: float, too_many: bool) -> Iterator[str]:
    if count := len(facts["unreadable"]):
        yield (
            f"{count:,} of {facts['images']:,} images cannot be read ({count / facts['images']:.2%}); a run with "
            f"data.max_corrupt_share={max_corrupt_share:g} {'stops' if too_many else 'goes on'}: repair or remove them"
        )
    if count := facts["copies"]["count"]:
        yield f"{count:,} copies of other images, byte for byte: they are seen more often; remove them"
    if count := facts["copies"]["labelled_otherwise"]:
        yield f"{count:,} copies with another label than the original: one of the two is wrong"
    if count := facts["look_alikes"]["count"]:
        yield f"{count:,} near copies of other images: look at them"
    if facts.get("megapixels", {}).get("median", 0) > 2:
        yield (
            f"the median image has {facts['megapixels']['median']:.1f} megapixels, so that decoding takes most of the "
            "time: `esvit-fast data pack --short-side 512` makes them smaller, once"
        )
    classes = facts["classes"]
    if classes and classes["imbalance"] and classes["imbalance"] > 10:
        yield f"class {classes['largest']!r} has {classes['imbalance']:g} times the images of {classes['smallest']!r}"
    if classes and classes["empty"]:
        yield f"{len(classes['empty']):,} classes have no images, {classes['empty'][0]!r} first"
    yield from deep.remarks(facts["modes"])
