"""The operator `esvit_fast::soft_cross_entropy`: cross-entropy of pairs of given teacher and student logits."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ._checks import check_tensors
from ._cpu import soft_cross_entropy as cpu
from ._library import define, differentiate, implement, linearize, must_scale
from ._pairs import Pairs, Statistics, check_matrices, check_pairs, check_temperatures
from ._plan import choose, register_rule

_ARGUMENTS = (
    "Tensor student_logits, Tensor teacher_logits, Tensor center, Tensor student_row, Tensor teacher_row, "
    "Tensor pair_weight, float student_temp, float teacher_temp, bool needed, str backend"
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

    Numerics:
        Computed in float32, or in float64 for float64 logits. The gradient is made with the loss, whose backward pass
        only scales it: it, of the size and dtype of student_logits, is all that is saved.

    Raises:
        ValueError: shapes or temperatures do not fit, or there are no pairs.
        TypeError: dtypes or devices do not fit.
        BackendError: the backend asked for cannot run; with the reasons.
    """
    tensors = {"student_logits": student_logits, "teacher_logits": teacher_logits}
    check_tensors(tensors | {"center": center})
    check_matrices(tensors)
    check_temperatures(student_temp, teacher_temp)
    pairs = check_pairs(pairs, student_logits, teacher_logits)
    prototypes = student_logits.shape[1]
    if teacher_logits.shape[1] != prototypes or tuple(center.shape) != (prototypes,):
        raise ValueError(
            f"teacher_logits {tuple(teacher_logits.shape)} and center {tuple(center.shape)} must have "
            f"K={prototypes} prototypes as student_logits has"
        )
    chosen = choose("soft_cross_entropy", tensors, {"pairs": len(pairs.weight)}, backend)
    needed = torch.is_grad_enabled() and student_logits.requires_grad
    factor = None
    if student_logits.dtype.itemsize == 2:
        # the gradient is rounded before the loss is scaled: it must be of a size that 16 bits hold
        factor = pairs.weight.float().abs().amax().clamp_min(1e-30)
        pairs = pairs._replace(weight=pairs.weight / factor)
    loss, statistics, _ = torch.ops.esvit_fast.soft_cross_entropy(
        student_logits, teacher_logits.detach(), center, *pairs, student_temp, teacher_temp, needed, chosen
    )
    statistics = Statistics(*statistics.detach().unbind())
    if factor is None:
        return loss, statistics
    return loss * factor, statistics._replace(kl=statistics.kl * factor)


def _fake(student_logits, *rest):
    exact = torch.promote_types(student_logits.dtype, torch.float32)
    gradient = torch.empty_like(student_logits.contiguous()) if rest[-2] else student_logits.new_empty(0)
    return (
        student_logits.new_empty((), dtype=exact),
        student_logits.new_empty(len(Statistics._fields), dtype=exact),
        gradient,
    )


def _setup_context(ctx, inputs, output):
    ctx.backend = inputs[-1]
    ctx.save_for_backward(output[2])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx, grad, *_):
    (gradient,) = ctx.saved_tensors
    if type(grad) is Tensor and torch.is_grad_enabled():
        # logits are not kept for a second derivative to find that there is none
        raise NotImplementedError(
            "esvit_fast::soft_cross_entropy is differentiable once, without create_graph; for second derivatives call "
            "esvit_fast.reference.soft_cross_entropy"
        )
    if must_scale(grad):
        gradient = torch.ops.esvit_fast.soft_cross_entropy_backward(grad, gradient, ctx.backend)
    return gradient, *(None,) * 9


def _reference(*args):
    *given, needed = args
    found = []

    def run(student_logits):
        loss, statistics = reference.soft_cross_entropy(
            student_logits, *given[1:6], student_temp=given[6], teacher_temp=given[7]
        )
        found.append(statistics)
        return loss

    loss, back = linearize(run, given[:1])
    gradient = back(torch.ones_like(loss))[0].contiguous() if needed else given[0].new_empty(0)
    return loss, *found, gradient


def _scaled(grad, gradient):
    return gradient * grad


define("soft_cross_entropy", f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor)", _fake)
define(
    "soft_cross_entropy_backward",
    "(Tensor grad, Tensor gradient, str backend) -> Tensor",
    lambda grad, gradient, backend: torch.empty_like(gradient),
)
differentiate("soft_cross_entropy", _backward, _setup_context)
implement("soft_cross_entropy", "reference", _reference)
implement("soft_cross_entropy", "cpu", cpu.forward)
for _name in ("reference", "cpu"):
    implement("soft_cross_entropy_backward", _name, _scaled)
register_rule("soft_cross_entropy", "cpu", cpu.refuse)
register_rule("soft_cross_entropy", "reference", lambda facts: None)
