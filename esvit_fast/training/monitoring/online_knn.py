"""k-NN accuracy of the teacher while it is being trained."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn

from ...config import Config
from ...data import Source, eval_image, open_test
from ...evaluation.catalog import get_protocol
from ...evaluation.features import Features, extract_features
from ...evaluation.protocols.knn import HEADLINE_K
from ...evaluation.task import Task
from ...parallel.ranks import Ranks, gather

KEPT_BYTES = 2 << 30
"""Of the images of a split that a rank keeps, decoded: 10,000 of 224 x 224 pixels take 1.5 GB."""


class OnlineKnn:
    """Weighted 20-NN on a fixed part of the data; `available` is False where the data has no classes.

    Training waits for it, so every rank takes the features of its share of the images, and keeps those decoded: after
    the first time they are not read again.
    """

    def __init__(self, config: Config, source: Source, ranks: Ranks):
        self.config, self.ranks, self.protocol = config, ranks, get_protocol("knn")
        self.available = config.eval.knn_every_epochs > 0 and bool(source.classes)
        if not self.available:
            return
        task = Task(source, open_test(config.data.source, config.data.max_megapixels))
        images = task.draw(config.eval.knn_bank, config.eval.knn_queries)
        self._sides = [(_Kept(side), rows[ranks.rank :: ranks.world_size]) for side, rows in images.sides]

    def due(self, before: float, now: float) -> bool:
        """Whether an evaluation falls between two positions of the run, in epochs."""
        every = self.config.eval.knn_every_epochs
        return self.available and int(now / every + 1e-9) > int(before / every + 1e-9)

    def __call__(self, backbone: nn.Module) -> dict[str, float]:
        """Accuracy in percent, with the k, the numbers of images that were used and the seconds that it took.

        All ranks call it; the accuracy is that of all images, which are put in order, on every number of ranks.
        """
        begin = time.monotonic()
        bank, queries = (gather(self._features(backbone, *side)) for side in self._sides)
        if not self.ranks.is_main:
            return {}
        bank, queries = _whole(bank), _whole(queries)
        settings = self.protocol.Settings(k=(min(HEADLINE_K, len(bank.labels)),))
        row = self.protocol.score(bank, queries, settings, self.ranks.device)[0]
        sizes = {"bank": len(bank.labels), "queries": len(queries.labels)}
        return {**row, **sizes, "seconds": time.monotonic() - begin}

    def _features(self, backbone: nn.Module, side: _Kept, rows: list[int]) -> list[Features]:
        """Of this rank's share, where there is any."""
        side.size = backbone.image_size
        shared = {"augment": self.config.data.augment, "device": self.ranks.device}
        return [extract_features(backbone, side, indices=rows, **shared)] if rows else []


def _whole(shares: list[Features]) -> Features:
    """All shares as one, in the order of images."""
    features, labels, indices = (torch.cat([getattr(s, f) for s in shares]) for f in ("features", "labels", "indices"))
    order = indices.argsort()
    return Features(features[order], labels[order], indices[order])


class _Kept:
    """A source that keeps its images as they are evaluated, as long as there is room for them.

    The evaluation view of such an image is the image itself.
    """

    def __init__(self, source: Source):
        self.source, self.name, self.classes = source, source.name, source.classes
        self._images: dict[int, np.ndarray] = {}
        self._room, self.size = KEPT_BYTES, 0

    def image(self, index: int) -> np.ndarray:
        """Pixels, uint8 RGB [size, size, 3]; raises CorruptImage if they cannot be read."""
        if index in self._images:
            return self._images[index]
        image = eval_image(self.source.image(index), self.size).permute(1, 2, 0).contiguous().numpy()
        if image.nbytes <= self._room:
            self._images[index] = image
            self._room -= image.nbytes
        return image

    def label(self, index: int) -> int:
        """As the source's."""
        return self.source.label(index)
