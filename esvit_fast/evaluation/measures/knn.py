"""Weighted k-nearest-neighbour classification of frozen features (DINO, arXiv 2104.14294; Wu et al., 1805.01978)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from ..features import Features

NEVER = torch.iinfo(torch.int64).max
"""The rank of a class that cannot be predicted."""


class Accuracy(NamedTuple):
    """Percent of the queries whose class is the first, or among the first five (or all, if fewer), predicted."""

    top1: float
    top5: float


def knn(
    bank: Features,
    queries: Features,
    *,
    k: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
    chunk: int = 1024,
    device: str | torch.device = "cpu",
) -> dict[int, Accuracy]:
    """Classify every query by its k most similar bank images, each voting with exp(cosine / temperature).

    Votes are summed in float64; equal votes go to the lowest class. No more than `chunk` x `chunk` similarities and
    `chunk` x classes votes exist at a time, where classes are those that occur in the bank, however they are numbered.
    A query of another class counts as wrong.

    Returns:
        The accuracy for every k.

    Raises:
        UserError: k or temperature is out of range, the two widths differ, or an image has no label.
    """
    _check(bank, queries, k, temperature)
    classes, labels = bank.labels.unique(return_inverse=True)
    ranks = {n: [] for n in k}
    for start in range(0, len(queries.labels), chunk):
        rows = slice(start, start + chunk)
        similarity, index = nearest(bank.features, queries.features[rows], max(k), chunk=chunk, device=device)
        weights, voted = torch.exp(similarity.double() / temperature), labels[index]
        for n in k:
            votes = weights.new_zeros(len(index), len(classes)).scatter_add_(1, voted[:, :n], weights[:, :n])
            ranks[n].append(rank_of_class(votes, positions(classes, queries.labels[rows])))
    return {n: accuracy(torch.cat(parts)) for n, parts in ranks.items()}


def nearest(
    bank: Tensor, queries: Tensor, k: int, *, chunk: int = 1024, device: str | torch.device = "cpu"
) -> tuple[Tensor, Tensor]:
    """The k bank rows with the largest cosine similarity to every query, the nearest first.

    Both sides are visited in chunks and the best k so far are kept, so memory does not grow with either. Of equally
    similar rows the first wins, whatever the chunks.

    Args:
        bank: float32 [N, C].
        queries: float32 [Q, C].

    Returns:
        (similarity float32 [Q, k], index int64 [Q, k]), on the CPU.

    Raises:
        UserError: k is not in 1..N.
    """
    check_k(k, len(bank))
    parts = []
    for rows in queries.split(chunk):
        q = F.normalize(rows.to(device).float(), dim=1)
        best = torch.empty(len(q), 0, dtype=torch.int64, device=device)
        for start in range(0, len(bank), chunk):
            b = F.normalize(bank[start : start + chunk].to(device).float(), dim=1)
            keys = _pack(q @ b.T, torch.arange(start, start + len(b), device=device))
            best = torch.cat([best, keys], dim=1)
            best = best.topk(min(k, best.shape[1]), dim=1).values
        parts.append(best.cpu())
    return _unpack(torch.cat(parts))


def positions(classes: Tensor, labels: Tensor) -> Tensor:
    """Where each label stands among the classes, int64 [N]; -1 where it does not occur.

    Args:
        classes: int64 [classes], rising.
        labels: int64 [N].
    """
    at = torch.searchsorted(classes, labels).clamp_(max=len(classes) - 1)
    return torch.where(classes[at] == labels, at, -1)


def rank_of_class(scores: Tensor, labels: Tensor) -> Tensor:
    """How many classes are predicted before the true one, equal scores in class order.

    Args:
        scores: [N, classes].
        labels: int64 [N]; -1 for a class that has no score.

    Returns:
        int64 [N]; 0 where the true class is the prediction, and `NEVER` where it has no score.
    """
    own = scores.gather(1, labels[:, None].clamp(min=0))
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    ranks = ((scores > own) | ((scores == own) & earlier)).sum(dim=1)
    return ranks.masked_fill(labels < 0, NEVER)


def accuracy(ranks: Tensor) -> Accuracy:
    """Top-1 and top-5 accuracy in percent from the ranks of the true classes, int64 [N]."""
    return Accuracy(*(100 * int((ranks < n).sum()) / len(ranks) for n in (1, 5)))


def _pack(similarity: Tensor, index: Tensor) -> Tensor:
    """Integers that sort like (similarity, -index), so that topk has no ties to break."""
    bits = (similarity + 0.0).view(torch.int32)  # + 0.0 turns -0 into 0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | (0xFFFFFFFF - index)


def _unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    ordered = (keys >> 32).int()
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32), 0xFFFFFFFF - (keys & 0xFFFFFFFF)


def check_k(k: int, size: int) -> None:
    """Raise UserError unless a bank of `size` images has k neighbours."""
    if not 1 <= k <= size:
        raise UserError(
            f"k={k} must lie between 1 and the {size} images of the bank; pass a k of at most {size} or a larger bank"
        )


def check_temperature(temperature: float) -> None:
    """Raise UserError unless votes can be weighted with this temperature."""
    if not temperature > 0:
        raise UserError(f"temperature={temperature} must be greater than 0; the published value is 0.07")


def _check(bank: Features, queries: Features, k: Sequence[int], temperature: float) -> None:
    if not k:
        raise UserError("k=() names no number of neighbours; pass at least one, such as 20")
    for n in k:
        check_k(n, len(bank.labels))
    check_temperature(temperature)
    if bank.features.shape[1] != queries.features.shape[1]:
        raise ValueError(
            f"queries have {queries.features.shape[1]} features but the bank has {bank.features.shape[1]}; "
            "extract both with the same model and the same blocks"
        )
    for name, side in (("bank", bank), ("queries", queries)):
        check_labels(side, name)


def check_labels(features: Features, name: str) -> None:
    """Check that there are images and that each has a label.

    Raises:
        UserError: there is no image, or one has the label -1.
    """
    if len(features.labels) == 0:
        raise UserError(f"{name}: holds no images; pass a source that has some")
    if (bare := int((features.labels < 0).sum())) > 0:
        raise UserError(f"{name}: {bare} of {len(features.labels)} images have no class; pass a source with classes")
