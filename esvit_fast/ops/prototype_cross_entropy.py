"""The operator `esvit_fast::prototype_cross_entropy`: `soft_cross_entropy` with the last linear layer inside."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ._library import define, differentiate, implement, vjp
from ._pairs import Pairs, Statistics, check_matrices, check_pairs, check_temperatures
from ._plan import choose, register_rule

_TENSORS = (
    "Tensor student, Tensor student_weight, Tensor teacher, Tensor teacher_weight, Tensor center, "
    "Tensor student_row, Tensor teacher_row, Tensor pair_weight"
)
_OPTIONS = "float student_temp, float teacher_temp"


def prototype_cross_entropy(
    student: Tensor,
    student_weight: Tensor,
    teacher: Tensor,
    teacher_weight: Tensor,
    center: Tensor,
    pairs: Pairs,
    *,
    student_temp: float,
    teacher_temp: float,
    backend: str | None = None,
) -> tuple[Tensor, Statistics]:
    """`soft_cross_entropy` of the logits ``student @ student_weight.T`` and ``teacher @ teacher_weight.T``.

    Args:
        student: [R, D] floating point, rows of the bottleneck.
        student_weight: [K, D] prototypes.
        teacher: [M, D]; receives no gradient.
        teacher_weight: [K, D]; receives no gradient.
        center: [K], subtracted from the teacher's logits.
        pairs: student rows int64 [P], teacher rows int64 [P], weights float32 [P].
        student_temp, teacher_temp: greater than 0.
        backend: one of cuda, triton, cpu, reference; None: the first that can run.

    Returns:
        The loss, a scalar in float32 (float64 for float64 rows), differentiable once in student and student_weight;
        and `Statistics`.

    Numerics:
        Since logits are linear in the bottleneck, pairs are gathered in D dimensions, not in K. A gradient that is
        not needed is not computed.

    Raises:
        ValueError: shapes or temperatures do not fit, or there are no pairs.
        TypeError: dtypes or devices do not fit.
    """
    matrices = {
        "student": student,
        "student_weight": student_weight,
        "teacher": teacher,
        "teacher_weight": teacher_weight,
    }
    check_matrices(matrices)
    check_temperatures(student_temp, teacher_temp)
    pairs = check_pairs(pairs, student.device)
    prototypes, width = student_weight.shape
    if {x.shape[1] for x in matrices.values()} != {width}:
        raise ValueError(f"shapes {[tuple(x.shape) for x in matrices.values()]} must agree in D, the last dimension")
    if teacher_weight.shape[0] != prototypes or tuple(center.shape) != (prototypes,):
        raise ValueError(
            f"teacher_weight {tuple(teacher_weight.shape)} and center {tuple(center.shape)} must have "
            f"K={prototypes} prototypes as student_weight has"
        )
    chosen = choose("prototype_cross_entropy", matrices, {"pairs": len(pairs.weight)}, backend)
    loss, statistics = torch.ops.esvit_fast.prototype_cross_entropy(
        student,
        student_weight,
        teacher.detach(),
        teacher_weight.detach(),
        center,
        *pairs,
        student_temp,
        teacher_temp,
        chosen,
    )
    return loss, Statistics(*statistics.detach().unbind())


def _fake(student, *_):
    exact = torch.promote_types(student.dtype, torch.float32)
    return student.new_empty((), dtype=exact), student.new_empty(len(Statistics._fields), dtype=exact)


def _fake_backward(grad, student, student_weight, *rest):
    needs_student, needs_weight = rest[-3:-1]
    return (
        torch.empty_like(student) if needs_student else student.new_empty(0),
        torch.empty_like(student_weight) if needs_weight else student.new_empty(0),
    )


def _setup_context(ctx, inputs, output):
    *tensors, ctx.student_temp, ctx.teacher_temp, ctx.backend = inputs
    ctx.save_for_backward(*tensors)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad, _):
    needs = ctx.needs_input_grad[:2]
    grads = torch.ops.esvit_fast.prototype_cross_entropy_backward(
        grad, *ctx.saved_tensors, ctx.student_temp, ctx.teacher_temp, *needs, ctx.backend
    )
    return *(g if need else None for g, need in zip(grads, needs, strict=True)), *(None,) * 9


def _reference(*args):
    return reference.prototype_cross_entropy(*args[:8], student_temp=args[8], teacher_temp=args[9])


def _reference_backward(grad, student, student_weight, *rest):
    *rest, needs_student, needs_weight = rest
    given = (student, student_weight)
    wanted = [i for i, need in enumerate((needs_student, needs_weight)) if need]

    def loss(*chosen):
        inputs = dict(zip(wanted, chosen, strict=True))
        return _reference(*(inputs.get(i, x) for i, x in enumerate(given)), *rest)[0]

    grads = dict(zip(wanted, vjp(loss, [given[i] for i in wanted], grad), strict=True))
    return tuple(grads[i] if i in grads else student.new_empty(0) for i in range(2))


define("prototype_cross_entropy", f"({_TENSORS}, {_OPTIONS}, str backend) -> (Tensor, Tensor)", _fake)
define(
    "prototype_cross_entropy_backward",
    f"(Tensor grad, {_TENSORS}, {_OPTIONS}, bool needs_student, bool needs_weight, str backend) -> (Tensor, Tensor)",
    _fake_backward,
)
differentiate("prototype_cross_entropy", _backward, _setup_context)
implement("prototype_cross_entropy", "reference", _reference)
implement("prototype_cross_entropy_backward", "reference", _reference_backward)
register_rule("prototype_cross_entropy", "reference", lambda facts: None)
