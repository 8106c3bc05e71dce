"""The numbers of a finished run: trained against untrained weights, and against raw pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from esvit_fast.config import Config
from esvit_fast.data import Source
from esvit_fast.evaluation.correspondence import correspondence_accuracy
from esvit_fast.evaluation.features import Features, Side, extract_features, split_labelled, subset
from esvit_fast.evaluation.health import feature_health
from esvit_fast.evaluation.knn import knn
from esvit_fast.evaluation.linear import linear_probe

PIXEL_SIDE = 32
HEALTH_IMAGES = 2_000


def evaluate_run(
    model: nn.Module,
    untrained: nn.Module,
    train_source: Source,
    test_source: Source | None,
    config: Config,
    *,
    k: int = 20,
    bank: int | None = None,
    queries: int | None = None,
    blocks: int = 4,
    linear: bool = True,
    epochs: int = 100,
    correspondence_images: int = 200,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a backbone before and after training; the result holds only what JSON holds.

    Without classes there are no accuracies, and `labelled` is false. Without a test split of its own (none, unlabelled,
    or the same images) a random tenth of a labelled training source are queries, and `held_out` is true. k is lowered
    to the size of a smaller bank; `k` in the result says to what.

    Args:
        model, untrained: the trained backbone and one of the same architecture with random weights.
        bank, queries: images at most, the same random ones every time; None takes `config.eval.knn_bank` and
            `.knn_queries`, 0 all.
        blocks: last blocks whose pooled tokens the linear probe reads, as published.
        linear: whether to train linear probes.
        epochs: of the linear probe.
        progress: called with (what, done, of).

    Returns:
        `labelled`, `unreadable`, `health` and `correspondence` (before, after); for labelled sources also `held_out`,
        `train_images`, `test_images`, `classes`, `chance`, `k`, `knn` (before, after, pixels) and, if asked for,
        `linear` (before, after), in percent.

    Raises:
        ValueError: the two sources have different classes, or no image of a source can be read.
    """
    sides = split_labelled(train_source, test_source)
    labelled = sides is not None
    limits = tuple(b if a is None else a for a, b in ((bank, config.eval.knn_bank), (queries, config.eval.knn_queries)))
    if sides is None:
        sides, limits = ((train_source, list(range(len(train_source)))),), (HEALTH_IMAGES,)
    limited = [
        (source, [rows[i] for i in subset(len(rows), n)]) for (source, rows), n in zip(sides, limits, strict=True)
    ]
    job = _Job(limited, config, k, blocks if linear else 0, epochs, correspondence_images, batch_size, device, progress)
    result: dict[str, Any] = {"labelled": labelled}
    if labelled:
        classes = len(train_source.classes)
        pixels = job.features(nn.Flatten(), "raw pixels", size=PIXEL_SIDE)
        result |= {"held_out": sides[0][0] is sides[1][0], "classes": classes, "chance": 100 / classes}
        result |= {"train_images": len(pixels[0].labels), "test_images": len(pixels[1].labels)}
        result |= {"k": min(k, len(pixels[0].labels)), "knn": {"pixels": job.knn(pixels)}}
    for name, which, word in (("before", untrained, "untrained"), ("after", model, "trained")):
        unreadable, numbers = job.evaluate(which, word)
        result["unreadable"] = unreadable
        for key, value in numbers.items():
            result.setdefault(key, {})[name] = value
    return result


class _Job(NamedTuple):
    """What is done to each of the models."""

    sides: list[Side]
    """Bank and queries; or only images, if they have no classes."""
    config: Config
    k: int
    blocks: int
    """0: no linear probe."""
    epochs: int
    correspondence_images: int
    batch_size: int
    device: str | torch.device
    progress: Callable[[str, int, int], None] | None

    def evaluate(self, model: nn.Module, word: str) -> tuple[int, dict[str, Any]]:
        pooled = self.features(model, f"features, {word}")
        spread = pooled[0].features[subset(len(pooled[0].features), HEALTH_IMAGES)]
        numbers: dict[str, Any] = {"health": feature_health(spread)._asdict()}
        if len(self.sides) == 2:
            numbers["knn"] = self.knn(pooled)
            if self.blocks:
                deep = self.features(model, f"features of {self.blocks} blocks, {word}", blocks=self.blocks)
                numbers["linear"] = self.linear(deep, f"linear probe, {word}")
        numbers["correspondence"] = correspondence_accuracy(
            model,
            self.sides[-1][0],
            augment=self.config.data.augment,
            images=self.correspondence_images,
            device=self.device,
            progress=self.reporter(f"correspondence, {word}"),
        )._asdict()
        return sum(len(side.failures) for side in pooled), numbers

    def features(self, model: nn.Module, what: str, **options: Any) -> list[Features]:
        shared = {"augment": self.config.data.augment, "batch_size": self.batch_size, "device": self.device}
        shared["progress"] = self.reporter(what)
        return [extract_features(model, source, indices=rows, **shared, **options) for source, rows in self.sides]

    def knn(self, sides: list[Features]) -> dict[str, float]:
        k = min(self.k, len(sides[0].labels))
        return knn(*sides, k=(k,), device=self.device)[k]._asdict()

    def linear(self, sides: list[Features], what: str) -> dict[str, Any]:
        seed, progress = self.config.train.seed, self.reporter(what)
        probe = linear_probe(*sides, epochs=self.epochs, seed=seed, device=self.device, progress=progress)
        rows = ((row.learning_rate, row.held_out.top1, row.test.top1) for row in probe.table)
        table = [dict(zip(("learning_rate", "held_out", "test"), row, strict=True)) for row in rows]
        return probe._asdict() | {"table": table, "diverged": list(probe.diverged)}

    def reporter(self, what: str) -> Callable[[int, int], None] | None:
        return (lambda done, of: self.progress(what, done, of)) if self.progress else None
