"""The operator `esvit_fast::prototype_cross_entropy`: `soft_cross_entropy` with the last linear layer inside."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ... import reference
from .._core.checks import check_tensors
from .._core.library import define, differentiate, implement, linearize, must_scale
from .._core.pairs import Pairs, Statistics, check_matrices, check_pairs, check_temperatures
from .._core.plan import choose, register_rule
from . import chunked, cpu, triton

_ARGUMENTS = (
    "Tensor student, Tensor student_weight, Tensor? student_weight_g, Tensor teacher, Tensor teacher_weight, "
    "Tensor? teacher_weight_g, Tensor center, Tensor student_row, Tensor teacher_row, Tensor pair_weight, "
    "float student_temp, float teacher_temp, bool[3] needs"
)


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
    student_weight_g: Tensor | None = None,
    teacher_weight_g: Tensor | None = None,
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
        student_weight_g, teacher_weight_g: [K] or [K, 1], lengths that the rows of a weight are scaled to (weight
            normalisation, arXiv 1602.07868); None: the rows as they are.
        backend: one of cuda, triton, cpu, chunked, reference; None: the first that can run.

    Returns:
        The loss, a scalar in float32 (float64 for float64 rows), differentiable once in student, student_weight and
        student_weight_g; and `Statistics`.

    Numerics:
        Since logits are linear in the bottleneck, pairs are gathered in D dimensions, not in K. Computed in float32,
        or in float64 for float64 rows; in Triton products are of float16 with sums in float32, unless rows are float32
        and `torch.get_float32_matmul_precision()` is "highest": no row or prototype may have entries of 65,504 or more.
        The gradients that are needed are computed with the loss, whose backward pass only scales them: they are saved,
        beside the inputs that they are of.

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
    lengths = {"student_weight_g": student_weight_g, "teacher_weight_g": teacher_weight_g}
    check_tensors(matrices | lengths | {"center": center})
    check_matrices(matrices)
    check_temperatures(student_temp, teacher_temp)
    pairs = check_pairs(pairs, student, teacher)
    prototypes, width = student_weight.shape
    if {x.shape[1] for x in matrices.values()} != {width}:
        raise ValueError(f"shapes {[tuple(x.shape) for x in matrices.values()]} must agree in D, the last dimension")
    if teacher_weight.shape[0] != prototypes or tuple(center.shape) != (prototypes,):
        raise ValueError(
            f"teacher_weight {tuple(teacher_weight.shape)} and center {tuple(center.shape)} must have "
            f"K={prototypes} prototypes as student_weight has"
        )
    for name, tensor in lengths.items():
        if tensor is not None and tuple(tensor.shape) not in ((prototypes,), (prototypes, 1)):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it must be [K] or [K, 1], K={prototypes}")
    trained = student, student_weight, student_weight_g
    needs = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in trained]
    chosen = choose("prototype_cross_entropy", matrices | lengths, {"pairs": len(pairs.weight)}, backend)
    loss, statistics, *_ = torch.ops.esvit_fast.prototype_cross_entropy(
        *trained,
        *(None if x is None else x.detach() for x in (teacher, teacher_weight, teacher_weight_g, center)),
        *pairs,
        student_temp,
        teacher_temp,
        needs,
        chosen,
    )
    return loss, Statistics(*statistics.detach().unbind())


def _fake(student, weight, weight_g, *rest):
    exact, needs = torch.promote_types(student.dtype, torch.float32), rest[-2]
    given = zip((student, weight, weight_g), needs, strict=True)
    grads = (student.new_empty(x.shape if need else 0, dtype=exact) for x, need in given)
    return student.new_empty((), dtype=exact), student.new_empty(len(Statistics._fields), dtype=exact), *grads


def _fake_backward(grad, student, weight, weight_g, *rest):
    return tuple(map(torch.empty_like, rest[:3]))


def _setup_context(ctx, inputs, output):
    *_, ctx.needs, ctx.backend = inputs
    ctx.save_for_backward(*inputs[:3], *output[2:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx, grad, *_):
    trained, grads = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
    if must_scale(grad):
        grads = torch.ops.esvit_fast.prototype_cross_entropy_backward(grad, *trained, *grads, ctx.backend)
    found = zip(grads, trained, ctx.needs, strict=True)
    return *(g.to(x.dtype) if need else None for g, x, need in found), *(None,) * 11


def _reference(*args):
    """The oracle, and its gradients for a loss that counts once."""
    trained, rest, needs = args[:3], args[3:-1], args[-1]
    wanted = [i for i, need in enumerate(needs) if need]
    found = []

    def run(*chosen):
        inputs = dict(zip(wanted, chosen, strict=True))
        tensors = (inputs.get(i, x) for i, x in enumerate(trained))
        loss, statistics = reference.prototype_cross_entropy(
            *tensors, *rest[:-2], student_temp=rest[-2], teacher_temp=rest[-1]
        )
        found.append(statistics)
        return loss

    loss, back = linearize(run, [trained[i] for i in wanted])
    grads = dict(zip(wanted, back(torch.ones_like(loss)), strict=True)) if wanted else {}
    return loss, *found, *(grads[i].to(loss.dtype) if i in grads else loss.new_empty(0) for i in range(3))


def _named(forward):
    return lambda *args: forward(*args[:10], student_temp=args[10], teacher_temp=args[11], needs=args[12])


def _scaled(grad, student, weight, weight_g, *grads):
    return tuple(g * grad for g in grads)


def _flops(student, weight, weight_g, teacher, *rest) -> int:
    """Scores and means of prototypes by all rows; the prototypes' gradient is a third product."""
    needs = rest[-1]
    teachers, students = 2 + any(needs[1:]), 1 + needs[0] + any(needs[1:])
    return 2 * math.prod(weight.shape) * (teachers * len(teacher) + students * len(student))


define(
    "prototype_cross_entropy",
    f"({_ARGUMENTS}, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _fake,
    _flops,
)
define(
    "prototype_cross_entropy_backward",
    "(Tensor grad, Tensor student, Tensor student_weight, Tensor? student_weight_g, Tensor dstudent, Tensor dweight, "
    "Tensor dg, str backend) -> (Tensor, Tensor, Tensor)",
    _fake_backward,
)
differentiate("prototype_cross_entropy", _backward, _setup_context)
implement("prototype_cross_entropy", "reference", _reference)
implement("prototype_cross_entropy", "cpu", _named(cpu.forward))
implement("prototype_cross_entropy", "chunked", _named(chunked.forward))
implement("prototype_cross_entropy", "triton", _named(triton.forward))
for _name in ("reference", "chunked", "cpu", "triton"):
    implement("prototype_cross_entropy_backward", _name, _scaled)
register_rule("prototype_cross_entropy", "triton", triton.refuse, triton.configure)
register_rule("prototype_cross_entropy", "cpu", cpu.refuse)
register_rule("prototype_cross_entropy", "chunked", lambda facts: None)
register_rule("prototype_cross_entropy", "reference", lambda facts: None)
