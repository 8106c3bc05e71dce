"""Cross-entropy between softened, centred teacher logits and student logits over a list of pairs (arXiv 2104.14294)."""

from __future__ import annotations

import torch
from torch import Tensor

from .statistics import teacher_statistics


def soft_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor,
    center: Tensor,
    student_row: Tensor,
    teacher_row: Tensor,
    pair_weight: Tensor,
    *,
    student_temp: float,
    teacher_temp: float,
) -> tuple[Tensor, Tensor]:
    """Loss and statistics; arguments as `esvit_fast.ops.soft_cross_entropy`."""
    exact = torch.promote_types(student_logits.dtype, torch.float32)
    center, pair_weight = center.to(exact), pair_weight.to(exact)
    log_student = (student_logits.to(exact) / student_temp).log_softmax(-1)
    teacher = ((teacher_logits.to(exact) - center) / teacher_temp).softmax(-1)
    entropy = -(teacher[teacher_row] * log_student[student_row]).sum(-1)  # [P]
    loss = (pair_weight * entropy).sum()
    return loss, teacher_statistics(teacher, teacher_row, pair_weight, loss)
