"""Signs of health that cost too much for every step: made for the steps that are logged, without another forward."""

from __future__ import annotations

import math

from torch import Tensor

from ...evaluation.measures.health import effective_rank
from ..step.optimizer import update_ratio
from ..step.trainer import StepResult, Trainer

RANK_IMAGES = 64
"""Images at most whose features are ranked: few, and as many on any number of ranks that leaves so many each."""


def signals(trainer: Trainer, result: StepResult) -> dict[str, Tensor]:
    """What a training record says beyond the step's own values, scalars on the device; all ranks call it.

    `update_ratio`: `optimizer.update_ratio` of the backbone's matrices.
    And what the method has `watched`.
    """
    trained, *_ = trainer.method.backbones()
    matrices = (p for p in trained.parameters() if p.requires_grad and p.ndim > 1)
    found = {"update_ratio": update_ratio(trainer.optimizer, matrices)}
    return found | dict(trainer.method.watched())


def feature_rank(features: Tensor) -> float:
    """Effective rank (RankMe) of the trained backbone's features of at most 64 images of this rank, [B, C] on the CPU.

    Its limit is the smaller of images and channels; NaN where a feature is not finite.
    """
    rows = features[:RANK_IMAGES]
    return effective_rank(rows) if rows.isfinite().all() else math.nan
