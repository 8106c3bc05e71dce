"""The cross-entropy of given logits on the CPU: probabilities are made where they are used, and never kept."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.cpu import refuse_device
from .._core.plan import Facts
from .._core.prototypes import soft_cross_entropy


def refuse(facts: Facts) -> str | None:
    """Why this backend cannot run, or None."""
    return refuse_device(facts, "student_logits are")


def forward(*args) -> tuple[Tensor, Tensor]:
    """Loss and statistics; arguments as `_core.prototypes.soft_cross_entropy` has them."""
    return soft_cross_entropy(torch.ops.esvit_fast_cpu.soft_cross_entropy, *args)
