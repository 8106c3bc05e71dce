"""`soft_cross_entropy` of logits that are linear in a narrow bottleneck, without gathering prototype-wide rows."""

from __future__ import annotations

import torch
from torch import Tensor

from .statistics import teacher_statistics


def prototype_cross_entropy(
    student: Tensor,
    student_weight: Tensor,
    student_weight_g: Tensor | None,
    teacher: Tensor,
    teacher_weight: Tensor,
    teacher_weight_g: Tensor | None,
    center: Tensor,
    student_row: Tensor,
    teacher_row: Tensor,
    pair_weight: Tensor,
    *,
    student_temp: float,
    teacher_temp: float,
) -> tuple[Tensor, Tensor]:
    """Loss and statistics; arguments as `esvit_fast.ops.prototype_cross_entropy`."""
    exact = torch.promote_types(student.dtype, torch.float32)
    center, pair_weight = center.to(exact), pair_weight.to(exact)
    student, teacher = student.to(exact), teacher.to(exact)
    student_weight = _prototypes(student_weight, student_weight_g, exact)
    teacher_weight = _prototypes(teacher_weight, teacher_weight_g, exact)
    log_sum = (student @ student_weight.T / student_temp).logsumexp(-1)  # [R]
    assigned = ((teacher @ teacher_weight.T - center) / teacher_temp).softmax(-1)  # [M, K]
    # the sum over k of assigned[m, k] * logit[r, k] is student[r] . target[m], as logits are linear in the bottleneck
    target = assigned @ student_weight  # [M, D]
    agreement = (student[student_row] * target[teacher_row]).sum(-1) / student_temp  # [P]
    loss = (pair_weight * (log_sum[student_row] - agreement)).sum()
    return loss, teacher_statistics(assigned, teacher_row, pair_weight, loss)


def _prototypes(weight: Tensor, weight_g: Tensor | None, dtype: torch.dtype) -> Tensor:
    """[K, D]: rows of the weight, scaled to the lengths weight_g where those are given (arXiv 1602.07868)."""
    weight = weight.to(dtype)
    return weight if weight_g is None else torch._weight_norm(weight, weight_g.to(dtype).view(-1, 1), 0)
