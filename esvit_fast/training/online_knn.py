"""k-NN accuracy of the teacher while it is being trained."""

from __future__ import annotations

import torch
from torch import nn

from ..config import Config
from ..data import open_source
from ..data.sources import Source
from ..evaluation.features import extract_features, split_labelled, subset
from ..evaluation.knn import knn


class OnlineKnn:
    """Weighted 20-NN on a fixed part of the data; `available` is False where the data has no classes."""

    def __init__(self, config: Config, source: Source, device: torch.device):
        self.config, self.device = config, device
        self.available = config.eval.knn_every_epochs > 0 and bool(source.classes)
        if not self.available:
            return
        sides = split_labelled(source, open_source(config.data.source, "test", config.data.max_megapixels))
        limits = config.eval.knn_bank, config.eval.knn_queries
        self._sides = [
            (side, [rows[i] for i in subset(len(rows), limit)])
            for (side, rows), limit in zip(sides, limits, strict=True)
        ]

    def due(self, before: float, now: float) -> bool:
        """Whether an evaluation falls between two positions of the run, in epochs."""
        every = self.config.eval.knn_every_epochs
        return self.available and int(now / every + 1e-9) > int(before / every + 1e-9)

    def __call__(self, backbone: nn.Module) -> dict[str, float]:
        """Accuracy in percent, with the k that was used."""
        bank, queries = (
            extract_features(backbone, source, augment=self.config.data.augment, indices=rows, device=self.device)
            for source, rows in self._sides
        )
        k = min(20, len(bank.labels))
        accuracy = knn(bank, queries, k=(k,), device=self.device)[k]
        return {"k": k, "top1": accuracy.top1, "top5": accuracy.top5}
