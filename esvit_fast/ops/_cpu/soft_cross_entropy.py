"""The cross-entropy of given logits on the CPU: probabilities are made where they are used, and never kept."""

from __future__ import annotations

import torch
from torch import Tensor

from .._plan import Facts
from .._prototypes import statistics_of
from ._device import refuse_device


def refuse(facts: Facts) -> str | None:
    """Why this backend cannot run, or None."""
    return refuse_device(facts, "student_logits are")


def forward(
    student, teacher, center, student_row, teacher_row, pair_weight, student_temp, teacher_temp, needed
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, statistics and the gradient of student; arguments as `esvit_fast.ops.soft_cross_entropy`."""
    exact = torch.promote_types(student.dtype, torch.float32)
    pair_weight, center = pair_weight.to(exact), center.to(exact).contiguous()
    ordered, order = student_row.sort(stable=True)
    start = torch.searchsorted(ordered, torch.arange(len(student) + 1))
    student = student.contiguous()
    gradient = torch.empty_like(student) if needed else None
    losses, log_total, entropy, best, usage = torch.ops.esvit_fast_cpu.soft_cross_entropy(
        student,
        teacher.to(student.dtype).contiguous(),
        center,
        start,
        teacher_row[order],
        pair_weight[order],
        student_temp,
        teacher_temp,
        gradient,
    )
    loss = losses.sum(dtype=torch.float64).to(exact)
    statistics = statistics_of(loss, entropy, -log_total, best, usage, teacher_row, pair_weight)
    return loss, statistics, student.new_empty(0) if gradient is None else gradient
