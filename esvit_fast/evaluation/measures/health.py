"""Numbers that show whether features have collapsed."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError


class FeatureHealth(NamedTuple):
    """Spread of a set of feature vectors."""

    rank: float
    """Effective rank between 1 (all vectors on one line) and `rank_limit` (RankMe, arXiv 2210.02885)."""
    rank_limit: int
    """min(N, C)."""
    std: float
    """Standard deviation of the normalised features times sqrt(C): 0 collapsed, 1 spread evenly (arXiv 2011.10566)."""
    cosine: float
    """Mean cosine similarity of two different images: 1 collapsed, 0 spread evenly."""


def feature_health(features: Tensor) -> FeatureHealth:
    """Measure how far features spread; everything is computed in float64.

    Args:
        features: float32 [N, C] with N >= 2.

    Raises:
        UserError: there are fewer than two vectors, or a value is not finite.
    """
    n, width = features.shape
    if n < 2:
        raise UserError(f"features hold {n} vectors; pass those of at least 2 images")
    if not features.isfinite().all():
        raise UserError(
            "features hold values that are not finite; the model has diverged, go back to an earlier checkpoint"
        )
    unit = F.normalize(features.double(), dim=1)
    cosine = (unit.sum(0).square().sum() - unit.square().sum()) / (n * (n - 1))
    std = unit.std(dim=0, correction=0).mean() * width**0.5
    return FeatureHealth(effective_rank(features), min(n, width), std.item(), cosine.item())


def effective_rank(features: Tensor) -> float:
    """RankMe: the exponential of the entropy of the singular values' shares; 0 for a matrix of zeros."""
    values = torch.linalg.svdvals(features.double())
    if values.sum() == 0:
        return 0.0
    share = values / values.sum()
    return torch.exp(torch.special.entr(share).sum()).item()
