"""The operator `esvit_fast::linear`: the projections around attention, and the layers of a perceptron."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import reference
from .._core.checks import check_tensors
from .._core.library import define, differentiate, implement
from .._core.plan import choose, register_rule
from . import cpu
from .cpu import rows


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    """``x @ weight.T + bias``, as `torch.nn.functional.linear`, by kernels of its own on a CPU.

    Args:
        x: [..., in] floating point.
        weight: [out, in] in the dtype of x.
        bias: [out] in the dtype of x, or None.
        backend: one of cuda, triton, cpu, chunked, reference; None: the first that can run.

    Returns:
        [..., out] in the dtype of x. Differentiable in x, weight and bias, any number of times.

    Numerics:
        On the CPU in float32, sums run over channels, or tokens for the gradients of weight and bias, in their order
        and block by block: bits depend neither on the number of threads nor, in the output and the gradient of x, on
        the other tokens. Saved for the backward pass: x and weight, each where the other's gradient is needed.

    Raises:
        ValueError: shapes do not fit.
        TypeError: dtype or device do not fit.
        BackendError: the backend asked for cannot run; with the reasons.
    """
    tensors = {"x": x, "weight": weight, "bias": bias}
    check_tensors(tensors)
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype != x.dtype:
            raise TypeError(f"{name} has dtype {tensor.dtype}; all must have one floating-point dtype, x has {x.dtype}")
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; for x {tuple(x.shape)} it must be [out, {_last(x)}]")
    if bias is not None and tuple(bias.shape) != (len(weight),):
        raise ValueError(f"bias has shape {tuple(bias.shape)}; it must be [out] = [{len(weight)}]")
    chosen = choose("linear", tensors, {}, backend)
    return torch.ops.esvit_fast.linear(x, weight, bias, chosen)


def _last(x: Tensor) -> object:
    return x.shape[-1] if x.ndim else "in], x [..., in"


def _fake(x, weight, bias, backend):
    return x.new_empty(*x.shape[:-1], len(weight))


def _fake_backward(grad, x, weight, mask, backend):
    dx, dweight, dbias = (grad.new_empty(0) for _ in range(3))
    if mask[0]:
        dx = grad.new_empty(*grad.shape[:-1], weight.shape[1])
    if mask[1]:
        dweight = grad.new_empty(grad.shape[-1], x.shape[-1])
    if mask[2]:
        dbias = grad.new_empty(grad.shape[-1])
    return dx, dweight, dbias


def _setup_context(ctx, inputs, output):
    x, weight, _, ctx.backend = inputs
    # as little as torch itself: the inputs of a frozen layer are not kept
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)


def _backward(ctx, grad):
    mask = list(ctx.needs_input_grad[:3])
    grads = torch.ops.esvit_fast.linear_backward(grad, *ctx.saved_tensors, mask, ctx.backend)
    return *(g if needed else None for g, needed in zip(grads, mask, strict=True)), None


def _setup_second_context(ctx, inputs, output):
    grad, x, weight, ctx.mask, _ = inputs
    ctx.save_for_backward(grad, x, weight)


def _second_backward(ctx, ddx, ddweight, ddbias):
    """Derivatives of a matrix product are matrix products: torch's, which may be differentiated again."""
    grad, x, weight = ctx.saved_tensors
    dgrad = dx = dweight = None
    if ctx.mask[0]:
        dgrad, dweight = F.linear(ddx, weight), rows(grad).t() @ rows(ddx)
    if ctx.mask[1]:
        more, dx = F.linear(x, ddweight), grad @ ddweight
        dgrad = more if dgrad is None else dgrad + more
    if ctx.mask[2]:
        dgrad = ddbias.expand_as(grad) if dgrad is None else dgrad + ddbias
    return dgrad, dx, dweight, None, None


def _reference_backward(grad, x, weight, mask):
    return (
        grad @ weight if mask[0] else grad.new_empty(0),
        rows(grad).t() @ rows(x) if mask[1] else grad.new_empty(0),
        rows(grad).sum(0) if mask[2] else grad.new_empty(0),
    )


define(
    "linear",
    "(Tensor x, Tensor weight, Tensor? bias, str backend) -> Tensor",
    _fake,
    lambda x, weight, bias: 2 * math.prod(x.shape[:-1]) * math.prod(weight.shape),
)
define(
    "linear_backward",
    "(Tensor grad, Tensor? x, Tensor? weight, bool[3] mask, str backend) -> (Tensor, Tensor, Tensor)",
    _fake_backward,
    lambda grad, x, weight, mask: 2 * sum(mask[:2]) * grad.numel() * (x if weight is None else weight).shape[-1],
)
differentiate("linear", _backward, _setup_context, (_second_backward, _setup_second_context))
implement("linear", "reference", reference.linear)
implement("linear_backward", "reference", _reference_backward)
implement("linear", "cpu", cpu.forward)
implement("linear_backward", "cpu", cpu.backward)
register_rule("linear", "cpu", cpu.refuse)
register_rule("linear", "reference", lambda facts: None)
