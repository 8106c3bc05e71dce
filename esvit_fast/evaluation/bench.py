"""What protocols evaluate, and how: networks, and the features that they take of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..config import AugmentConfig
from ..data import Source, eval_transform
from ..errors import UserError
from .features import Features, extract_features
from .result import Result, Row, unread
from .targets import Targets, subset
from .task import Images

PIXEL_SIDE = 32
PART = 2_000
"""Images whose pooled features are kept for whoever needs only some: a protocol that measures spread, say."""
_DEFAULTS = AugmentConfig()

Networks = Mapping[str, nn.Module]
"""Networks by the name that they have in a result: trained, untrained, raw pixels."""


class RawPixels(nn.Flatten):
    """The pixels themselves as features, at 32 x 32."""

    image_size = PIXEL_SIDE


class Bench:
    """Networks, and how their features are taken.

    Args:
        networks: by name; the first one's size is that of images, unless settings name another.
        augment: holds the mean and standard deviation to normalise with.
        progress: called with (what, done, of).
        batch_size: images at a time; it changes no number but by rounding.

    Raises:
        UserError: batch_size is out of range.
    """

    def __init__(
        self,
        networks: Networks,
        augment: AugmentConfig = _DEFAULTS,
        device: str | torch.device = "cpu",
        progress: Callable[[str, int, int], None] | None = None,
        batch_size: int = 256,
    ):
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} must be 1 or more images")
        self.networks, self.augment, self.device = networks, augment, device
        self.progress, self.batch_size = progress, batch_size
        self._parts: dict[tuple[str, Images, int | None], Features] = {}

    def of(self, networks: Networks) -> Bench:
        """A bench of other networks that shares what has been taken."""
        bench = Bench(networks, self.augment, self.device, self.progress, self.batch_size)
        bench._parts = self._parts
        return bench

    def features(self, name: str, images: Images, size: int | None = None, blocks: int = 0) -> list[Features]:
        """Features of a network, of each side of images; arguments are those of `extract_features`."""
        sides = zip(("training images", "test images"), images.sides, strict=False)
        found = [self._extract(name, part, *side, images.targets, size, blocks) for part, side in sides]
        if not blocks:
            self._parts[name, images, size] = _part(found[0])
        return found

    def part(self, name: str, images: Images, size: int | None = None) -> Features:
        """Features of at most `PART` of the first side, which are taken once."""
        if (name, images, size) not in self._parts:
            source, rows = images.sides[0]
            chosen = [rows[i] for i in subset(len(rows), PART)]
            self._parts[name, images, size] = self._extract(name, "images", source, chosen, images.targets, size)
        return self._parts[name, images, size]

    def _extract(
        self, name: str, part: str, source: Source, rows: list[int], targets: Targets, size: int | None, blocks: int = 0
    ) -> Features:
        network = self.networks[name]
        return extract_features(
            network,
            source,
            size=None if isinstance(network, RawPixels) else size,
            augment=self.augment,
            batch_size=self.batch_size,
            blocks=blocks,
            indices=rows,
            target=targets.of,
            device=self.device,
            progress=self.reporter(f"{name}, features of {part}" + (f", {blocks} blocks" if blocks else "")),
        )

    def result(
        self,
        protocol: str,
        images: Images,
        numbers: Mapping[str, Sequence[Row]],
        settings: Mapping[str, Any],
        seen: Sequence[Features],
        size: int | None = None,
        headline: int = 0,
    ) -> Result:
        """A result whose images are those of which there are features.

        Args:
            numbers: the rows of each network.
            settings: what the numbers hang on, beside the images.
            seen: the features of any one network: of bank and queries, or of one side alone.
            size: as it was given to `features`.
            headline: which of the rows of each network stands for it.
        """
        bank, queries = seen if len(seen) == 2 else (None, seen[0])
        size = int(size or next(iter(self.networks.values())).image_size)
        remarks = [*images.remarks, *unread(sum(len(side.failures) for side in seen))]
        if bank is not None:
            remarks += images.targets.remarks(bank, queries, images.sides[1][0])
        return Result(
            protocol,
            images.data,
            0 if bank is None else len(bank.labels),
            len(queries.labels),
            0 if bank is None else images.targets.classes(bank),
            f"{eval_transform(size)}; mean {_list(self.augment.mean)}, std {_list(self.augment.std)}",
            settings,
            numbers,
            tuple(remarks),
            headline,
        )

    def reporter(self, what: str) -> Callable[[int, int], None] | None:
        """Progress of one part."""
        return (lambda done, of: self.progress(what, done, of)) if self.progress else None


def _part(features: Features) -> Features:
    rows = subset(len(features.labels), PART)
    return Features(features.features[rows].clone(), features.labels[rows], failures=features.failures)


def _list(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
