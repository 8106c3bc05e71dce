"""Linear probe on frozen, cached features: many learning rates in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from ..features import Features
from .knn import Accuracy, accuracy, check_labels, positions, rank_of_class

LEARNING_RATES = tuple(float(f"{10 ** (i / 3 - 4):.2g}") for i in range(13))
"""1e-4 to 1, three per decade; each is multiplied by batch / 256."""


class ProbeRow(NamedTuple):
    """One learning rate's classifier."""

    learning_rate: float
    held_out: Accuracy
    test: Accuracy


class LinearProbe(NamedTuple):
    """Result of a linear probe."""

    learning_rate: float
    """The rate that is best on the held-out part of the training features."""
    top1: float
    """Its test accuracy in percent."""
    top5: float
    table: tuple[ProbeRow, ...]
    """Every rate that stayed finite, rising."""
    diverged: tuple[float, ...]
    """Rates whose classifier became non-finite; they are not in the table."""


def linear_probe(
    train: Features,
    test: Features,
    *,
    learning_rates: Sequence[float] = LEARNING_RATES,
    epochs: int = 100,
    batch_size: int = 1024,
    held_out: float = 0.1,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> LinearProbe:
    """Train one linear classifier per learning rate at once, choose the rate on held-out training images, test it.

    SGD with momentum 0.9, no weight decay, cosine to 0, rates times batch / 256, initial standard deviation 0.01, as
    published for EsViT (arXiv 2106.09785). Two differences: the features are cached, so images are not augmented anew
    in every epoch; and the rate is chosen on a held-out share of the training images, not on the test images. All
    classifiers see the same batches and are one float32 tensor [C + 1, rates, classes], where classes are those that
    occur in the training images, however they are numbered; on one device the seed decides the result. A test image of
    another class counts as wrong.

    Args:
        train, test: raw features float32 [N, C]; they are not normalised.
        held_out: share of the training images that choose the rate and are not trained on.
        progress: called with (epochs done, epochs) after every epoch.

    Raises:
        UserError: an argument is out of range, an image has no label, or every rate diverges.
    """
    _check(train, test, learning_rates, epochs, batch_size, held_out)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train.labels), generator=generator)
    cut = max(1, round(held_out * len(order)))
    classes = train.labels.unique()
    train, test = (side._replace(labels=positions(classes, side.labels)) for side in (train, test))
    fit, choose = (_biased(train, rows, device) for rows in (order[cut:], order[:cut]))
    batch_size = min(batch_size, len(fit[1]))
    rates = torch.tensor(learning_rates, dtype=torch.float32, device=device) * batch_size / 256
    weight = torch.randn(fit[0].shape[1], len(rates), len(classes), generator=generator) * 0.01
    weight[-1] = 0
    weight = train_classifiers(weight.to(device), *fit, rates, epochs, batch_size, generator, progress)
    finite = weight.isfinite().all(dim=2).all(dim=0).tolist()
    results = [_accuracies(weight, *side) for side in (choose, _biased(test, slice(None), device))]
    rows = [
        ProbeRow(*row) for row, good in zip(zip(learning_rates, *results, strict=True), finite, strict=True) if good
    ]
    if not rows:
        raise UserError(f"learning_rates={tuple(learning_rates)} all diverge; pass smaller ones")
    best = max(rows, key=lambda row: (row.held_out.top1, -row.learning_rate))
    diverged = tuple(sorted(rate for rate, good in zip(learning_rates, finite, strict=True) if not good))
    return LinearProbe(best.learning_rate, *best.test, tuple(sorted(rows)), diverged)


def train_classifiers(
    weight: Tensor,
    x: Tensor,
    labels: Tensor,
    rates: Tensor,
    epochs: int,
    batch_size: int,
    generator: torch.Generator,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """SGD with momentum 0.9 and a cosine to 0 over all steps; slice l of the weights follows its own peak rate.

    Args:
        weight: float32 [C, L, classes].
        x: float32 [N, C].
        labels: int64 [N].
        rates: float32 [L].
    """
    momentum = torch.zeros_like(weight)
    steps, step = epochs * math.ceil(len(x) / batch_size), 0
    for epoch in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).to(x.device).split(batch_size):
            batch, target = x[rows], labels[rows]
            error = torch.softmax(torch.tensordot(batch, weight, dims=1), dim=2)  # [B, L, classes]
            error[torch.arange(len(rows)), :, target] -= 1
            momentum.mul_(0.9).add_(torch.tensordot(batch.T, error, dims=1), alpha=1 / len(rows))
            weight = weight - momentum * (rates * 0.5 * (1 + math.cos(math.pi * step / steps)))[:, None]
            step += 1
        if progress:
            progress(epoch + 1, epochs)
    return weight


def _biased(features: Features, rows: Tensor | slice, device: str | torch.device) -> tuple[Tensor, Tensor]:
    """Features with a column of ones, which carries the bias, and their labels."""
    return F.pad(features.features[rows].to(device).float(), (0, 1), value=1.0), features.labels[rows].to(device)


def _accuracies(weight: Tensor, x: Tensor, labels: Tensor, chunk: int = 1024) -> list[Accuracy]:
    ranks = []
    for rows, target in zip(x.split(chunk), labels.split(chunk), strict=True):
        scores = torch.tensordot(rows, weight, dims=1).permute(1, 0, 2)  # [L, B, classes]
        ranks.append(torch.stack([rank_of_class(s, target) for s in scores]))
    return [accuracy(row) for row in torch.cat(ranks, dim=1).cpu()]


def _check(
    train: Features, test: Features, rates: Sequence[float], epochs: int, batch_size: int, held_out: float
) -> None:
    for name, value in {"epochs": epochs, "batch_size": batch_size, "learning_rates": min(rates, default=0)}.items():
        if value <= 0:
            raise UserError(f"{name}={value} must be greater than 0")
    if not 0 < held_out < 1:
        raise ValueError(f"held_out={held_out} must lie between 0 and 1; 0.1 keeps a tenth of the training images back")
    for name, side in (("train", train), ("test", test)):
        check_labels(side, name)
    if len(train.labels) < 2:
        raise UserError("train: holds 1 image, which leaves none to choose the learning rate on; pass more")
    if train.features.shape[1] != test.features.shape[1]:
        raise ValueError(
            f"test has {test.features.shape[1]} features but train has {train.features.shape[1]}; "
            "extract both with the same model and the same blocks"
        )
