"""What the teacher's assignments say about the health of a run."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def teacher_statistics(teacher: Tensor, teacher_row: Tensor, pair_weight: Tensor, loss: Tensor) -> Tensor:
    """Entropies in nats, KL divergence, mean largest probability and number of prototypes in use: [5].

    teacher: probabilities [M, K]; teacher_row and pair_weight [P]; loss: the weighted cross-entropy, scalar.
    """
    entropy = torch.special.entr(teacher).sum(-1)  # [M]
    marginal = torch.special.entr(teacher.mean(0)).sum()
    peak, prototype = teacher.max(-1)
    used = torch.zeros_like(teacher[0]).index_fill_(0, prototype, 1).sum()
    kl = loss - (pair_weight * entropy[teacher_row]).sum()
    return torch.stack([entropy.mean(), marginal, kl, peak.mean(), used])
