"""The operator `esvit_fast::soft_cross_entropy`: cross-entropy of pairs of given teacher and student logits."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import reference
from .._core.checks import check_tensors
from .._core.library import define, differentiate, implement, linearize, must_scale
from .._core.pairs import Pairs, Statistics, check_matrices, check_pairs, check_temperatures
from .._core.plan import choose, register_rule
from . import cpu, cuda, triton

_ARGUMENTS = (
    "Tensor teacher_logits, Tensor center, Tensor student_row, Tensor teacher_row, "
    "Tensor pair_weight, float student_temp, float teacher_temp"
)

_CHUNK = 1 << 24  # values scaled at a time: bounds temporary memory


def soft_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor,
    center: Tensor,
    pairs: Pairs,
    *,
    student_temp: float,
    teacher_temp: float,
    gradient_in_place: bool = False,
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
        gradient_in_place: write the gradient over student_logits, if they need one: no memory of their size is taken.
            They must be contiguous and made by an operator that does not need them any more, as a linear layer is;
            the backward pass runs once.
        backend: one of cuda, triton, cpu, chunked, reference; None: the first that can run.

    Returns:
        The loss, a scalar in float32 (float64 for float64 logits), differentiable once in student_logits; and
        `Statistics`.

    Numerics:
        Computed in float32, or in float64 for float64 logits. The gradient is made with the loss, whose backward pass
        only scales it: it, of the size and dtype of student_logits, is all that is saved.

    Raises:
        ValueError: shapes or temperatures do not fit, there are no pairs, or the gradient cannot be in place.
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
        # the gradient is rounded before the loss is scaled: it must be of a size that 16 bits hold. A power of 2 rounds
        # nothing, or a row's bits would depend on the weights of others
        largest = pairs.weight.float().abs().amax().clamp_min(1e-30)
        factor = torch.ldexp(torch.ones_like(largest), largest.frexp().exponent.clamp(max=127))
        pairs = pairs._replace(weight=pairs.weight / factor)
    given = student_logits, teacher_logits.detach(), center, *pairs, student_temp, teacher_temp
    if needed and gradient_in_place:
        _check_place(student_logits, teacher_logits)
        loss, statistics = _InPlace.apply(*given, chosen)
    else:
        loss, statistics, _ = torch.ops.esvit_fast.soft_cross_entropy(*given, needed, chosen)
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


def _check_place(student_logits: Tensor, teacher_logits: Tensor) -> None:
    base = student_logits if student_logits._base is None else student_logits._base
    why = None
    if base.is_leaf:
        why = "a leaf, or a view of one"
    elif not student_logits.is_contiguous():
        why = f"of strides {student_logits.stride()}"
    elif student_logits.untyped_storage().data_ptr() == teacher_logits.untyped_storage().data_ptr():
        why = "in the memory of teacher_logits"
    if why is not None:
        raise ValueError(
            "gradient_in_place=True needs student_logits that are contiguous, the output of an operator and apart from "
            f"teacher_logits; they are {why}"
        )
    if torch.compiler.is_compiling():
        raise ValueError("gradient_in_place=True is not for torch.compile, which plans memory itself; leave it out")


class _InPlace(torch.autograd.Function):
    """The operator that overwrites the student's logits, and what takes their gradient from there."""

    @staticmethod
    def forward(ctx, student_logits, *rest):
        ctx.gradient = student_logits.detach()
        loss, statistics = torch.ops.esvit_fast.soft_cross_entropy_in_place(ctx.gradient, *rest)
        # who kept the logits for a backward pass will be told
        torch.autograd.graph.increment_version(student_logits)
        ctx.version = student_logits._version
        ctx.mark_non_differentiable(statistics)
        return loss, statistics

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, _):
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            raise RuntimeError("the gradient in place was scaled already; for several backward passes leave it out")
        if gradient._version != ctx.version:
            raise RuntimeError(
                "the gradient in place was overwritten; gradient_in_place=True is for one loss of logits"
            )
        return _scale(gradient, grad, gradient) if must_scale(grad) else gradient, *(None,) * 8


def _reference(student_logits, *rest):
    """The oracle; its gradient for a loss that counts once goes where it is wanted."""
    *rest, gradient = rest
    temperatures = {"student_temp": rest[5], "teacher_temp": rest[6]}
    if gradient is None:
        return reference.soft_cross_entropy(student_logits, *rest[:5], **temperatures)
    found = []

    def run(student_logits):
        loss, statistics = reference.soft_cross_entropy(student_logits, *rest[:5], **temperatures)
        found.append(statistics)
        return loss

    loss, back = linearize(run, (student_logits,))
    gradient.copy_(back(torch.ones_like(loss))[0])
    return loss, *found


def _apart(run):
    """A backend's implementation of the operator that makes the gradient a tensor of its own."""

    def implementation(student_logits, *rest):
        *rest, needed = rest
        gradient = torch.empty_like(student_logits.contiguous()) if needed else None
        found = run(student_logits, *rest, gradient)
        return *found, student_logits.new_empty(0) if gradient is None else gradient

    return implementation


def _in_place(run):
    return lambda student_logits, *rest: run(student_logits, *rest, student_logits)


def _scaled(grad, gradient):
    return _scale(gradient, grad, torch.empty_like(gradient))


def _scale(gradient: Tensor, grad: Tensor, out: Tensor) -> Tensor:
    """Products in float32, of some rows at a time where those have 16 bits, to which torch would round the factor."""
    if gradient.dtype == grad.dtype:
        return torch.mul(gradient, grad, out=out)
    rows = max(1, _CHUNK // gradient.shape[1])
    for part, to in zip(gradient.split(rows), out.split(rows), strict=True):
        torch.mul(part.to(grad.dtype), grad, out=to)
    return out


define(
    "soft_cross_entropy",
    f"(Tensor student_logits, {_ARGUMENTS}, bool needed, str backend) -> (Tensor, Tensor, Tensor)",
    _fake,
)
define(
    "soft_cross_entropy_in_place",
    f"(Tensor(a!) student_logits, {_ARGUMENTS}, str backend) -> (Tensor, Tensor)",
    lambda *args: _fake(*args[:-1], False, args[-1])[:2],
)
define(
    "soft_cross_entropy_backward",
    "(Tensor grad, Tensor gradient, str backend) -> Tensor",
    lambda grad, gradient, backend: torch.empty_like(gradient),
)
differentiate("soft_cross_entropy", _backward, _setup_context)
for _name, _run in (
    ("reference", _reference),
    ("cpu", cpu.forward),
    ("triton", triton.forward),
    ("cuda", cuda.forward),
):
    implement("soft_cross_entropy", _name, _apart(_run))
    implement("soft_cross_entropy_in_place", _name, _in_place(_run))
    implement("soft_cross_entropy_backward", _name, _scaled)
register_rule("soft_cross_entropy", "cuda", cuda.refuse)
register_rule("soft_cross_entropy", "triton", triton.refuse)
register_rule("soft_cross_entropy", "cpu", cpu.refuse)
register_rule("soft_cross_entropy", "reference", lambda facts: None)
