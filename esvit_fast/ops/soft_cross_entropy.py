"""The operator `esvit_fast::soft_cross_entropy`: cross-entropy of pairs of given teacher and student logits."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ._checks import check_tensors
from ._library import define, differentiate, implement, vjp
from ._pairs import Pairs, Statistics, check_matrices, check_pairs, check_temperatures
from ._plan import choose, register_rule

_ARGUMENTS = (
    "Tensor student_logits, Tensor teacher_logits, Tensor center, Tensor student_row, Tensor teacher_row, "
    "Tensor pair_weight, float student_temp, float teacher_temp, str backend"
)


def soft_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor,
    center: Tensor,
    pairs: Pairs,
    *,
    student_temp: float,
    teacher_temp: float,
    backend: str | None = None,
) -> tuple[Tensor, Statistics]:
    """Weighted cross-entropy between teacher and student rows, as in DINO (arXiv 2104.14294, section 3.1).

    The loss is the sum over pairs (r, m, w) of ``-w * sum_k softmax((t_m - center) / teacher_temp)_k *
    log_softmax(s_r / student_temp)_k``.

    Args:
        student_logits: [R, K] floating point.
        teacher_logits: [M, K] floating point; receives no gradient.
        center: [K], subtracted from the teacher's logits.
        pairs: student rows int64 [P], teacher rows int64 [P], weights float32 [P].
        student_temp, teacher_temp: greater than 0.
        backend: one of cuda, triton, cpu, reference; None: the first that can run.

    Returns:
        The loss, a scalar in float32 (float64 for float64 logits), differentiable once in student_logits; and
        `Statistics`.

    Raises:
        ValueError: shapes or temperatures do not fit, or there are no pairs.
        TypeError: dtypes or devices do not fit.
    """
    tensors = {"student_logits": student_logits, "teacher_logits": teacher_logits}
    check_tensors(tensors)
    check_matrices(tensors)
    check_temperatures(student_temp, teacher_temp)
    pairs = check_pairs(pairs, student_logits.device)
    prototypes = student_logits.shape[1]
    if teacher_logits.shape[1] != prototypes or tuple(center.shape) != (prototypes,):
        raise ValueError(
            f"teacher_logits {tuple(teacher_logits.shape)} and center {tuple(center.shape)} must have "
            f"K={prototypes} prototypes as student_logits has"
        )
    chosen = choose("soft_cross_entropy", tensors, {"pairs": len(pairs.weight)}, backend)
    loss, statistics = torch.ops.esvit_fast.soft_cross_entropy(
        student_logits, teacher_logits.detach(), center, *pairs, student_temp, teacher_temp, chosen
    )
    return loss, Statistics(*statistics.detach().unbind())


def _fake(student_logits, *_):
    exact = torch.promote_types(student_logits.dtype, torch.float32)
    return student_logits.new_empty((), dtype=exact), student_logits.new_empty(len(Statistics._fields), dtype=exact)


def _setup_context(ctx, inputs, output):
    *tensors, ctx.student_temp, ctx.teacher_temp, ctx.backend = inputs
    ctx.save_for_backward(*tensors)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad, _):
    grad_student = torch.ops.esvit_fast.soft_cross_entropy_backward(
        grad, *ctx.saved_tensors, ctx.student_temp, ctx.teacher_temp, ctx.backend
    )
    return grad_student, *(None,) * 8


def _reference(*args):
    return reference.soft_cross_entropy(*args[:6], student_temp=args[6], teacher_temp=args[7])


def _reference_backward(grad, student_logits, *rest):
    return vjp(lambda x: _reference(x, *rest)[0], (student_logits,), grad)[0]


define("soft_cross_entropy", f"({_ARGUMENTS}) -> (Tensor, Tensor)", _fake)
define(
    "soft_cross_entropy_backward",
    f"(Tensor grad, {_ARGUMENTS}) -> Tensor",
    lambda grad, student_logits, *_: torch.empty_like(student_logits),
)
differentiate("soft_cross_entropy", _backward, _setup_context)
implement("soft_cross_entropy", "reference", _reference)
implement("soft_cross_entropy_backward", "reference", _reference_backward)
register_rule("soft_cross_entropy", "reference", lambda facts: None)
