"""The cross-entropy over prototypes on the CPU: four passes of rows over prototypes, and pairs in the bottleneck."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _native
from .._plan import Facts


def refuse(facts: Facts) -> str | None:
    """Why this backend cannot run, or None."""
    if facts.device_type != "cpu":
        return f"student is on {facts.device_type}"
    return _native.CPU_MISSING


def forward(
    student, weight, weight_g, teacher, teacher_weight, teacher_weight_g, center, student_row, teacher_row, pair_weight,
    *, student_temp, teacher_temp, needs,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Loss, statistics and gradients; arguments as `esvit_fast.ops.prototype_cross_entropy`."""
    exact = torch.promote_types(student.dtype, torch.float32)
    student, weight, teacher, teacher_weight, center, pair_weight = (
        x.to(exact).contiguous() for x in (student, weight, teacher, teacher_weight, center, pair_weight)
    )
    length, scale = _scale(weight, weight_g)
    _, teacher_scale = _scale(teacher_weight, teacher_weight_g)
    assign = torch.ops.esvit_fast_cpu.prototype_assignment
    share, pulled, dweight = None, None, None
    if any(needs):
        share = student.new_zeros(len(student)).index_add_(0, student_row, pair_weight)  # [R]
    if any(needs[1:]):
        # minus the rows that each teacher row pulls its prototypes to
        pulled = torch.zeros_like(teacher).index_add_(
            0, teacher_row, student[student_row] * (-pair_weight / student_temp)[:, None]
        )
        dweight = torch.empty_like(weight)
    log_sum_t, entropy, peak, prototype, target, usage = assign(
        teacher,
        teacher_weight,
        teacher_scale / teacher_temp,
        center / -teacher_temp,
        weight,
        scale,
        pulled,
        dweight,
        True,
    )
    pushed = None if dweight is None else student * (share / student_temp)[:, None]
    values = (weight, scale) if needs[0] else (None, None)
    log_sum, _, _, _, mean, _ = assign(student, weight, scale / student_temp, None, *values, pushed, dweight, False)

    agreement = (student[student_row] * target[teacher_row]).sum(-1) / student_temp  # [P]
    loss = (pair_weight * (log_sum[student_row] - agreement)).sum(dtype=torch.float64).to(exact)
    statistics = torch.stack(
        [
            entropy.mean(),
            torch.special.entr(usage / len(teacher)).sum(),
            loss - (pair_weight * entropy[teacher_row]).sum(),
            (peak - log_sum_t).exp().mean(),
            torch.zeros_like(usage).index_fill_(0, prototype, 1).sum(),
        ]
    )
    nothing = student.new_empty(0)
    dstudent, dg = nothing, nothing
    if needs[0]:
        pull = torch.zeros_like(student).index_add_(0, student_row, target[teacher_row] * pair_weight[:, None])
        dstudent = (mean * share[:, None] - pull) / student_temp
    if any(needs[1:]) and weight_g is not None:
        g = weight_g.to(exact).flatten().contiguous()
        dg = torch.ops.esvit_fast_cpu.prototype_weight_norm_backward(dweight, weight, g, length).view(weight_g.shape)
    grads = dstudent, dweight, dg
    return loss, statistics, *(d if need else nothing.clone() for d, need in zip(grads, needs, strict=True))


def _scale(weight: Tensor, weight_g: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """Lengths of the rows, and what rows are multiplied by, [K]."""
    if weight_g is None:
        return None, weight.new_ones(len(weight))
    length = torch.linalg.vector_norm(weight, dim=1)
    return length, weight_g.to(weight.dtype).flatten() / length
