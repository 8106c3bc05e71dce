"""The operator `esvit_fast::linear`: the projections around attention, which take most of its time on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ._cpu import linear as cpu
from ._library import define, differentiate, implement, vjp
from ._plan import choose, register_rule


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    """``x @ weight.T + bias``, as `torch.nn.functional.linear`, whose matrix products are slow on many CPUs.

    Args:
        x: [..., in] floating point.
        weight: [out, in] in the dtype of x.
        bias: [out] in the dtype of x, or None.
        backend: one of cuda, triton, cpu, reference; None: the first that can run.

    Returns:
        [..., out] in the dtype of x. Differentiable once in x, weight and bias.

    Numerics:
        On the CPU in float32: the output and the gradient of x by oneDNN; those of weight and bias by a kernel that
        adds tokens in order, whose bits do not depend on the number of threads. Saved for the backward pass: x, weight.

    Raises:
        ValueError: shapes do not fit.
        TypeError: dtype or device do not fit.
        BackendError: the backend asked for cannot run; with the reasons.
    """
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if not tensor.is_floating_point() or tensor.dtype != x.dtype:
            raise TypeError(f"{name} has dtype {tensor.dtype}; all must have one floating-point dtype, x has {x.dtype}")
        if tensor.device != x.device:
            raise TypeError(f"{name} is on {tensor.device} but x is on {x.device}; move it there")
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; for x {tuple(x.shape)} it must be [out, in]")
    if bias is not None and tuple(bias.shape) != (len(weight),):
        raise ValueError(f"bias has shape {tuple(bias.shape)}; it must be [out] = [{len(weight)}]")
    chosen = choose("linear", {"x": x, "weight": weight, "bias": bias}, {}, backend)
    return torch.ops.esvit_fast.linear(x, weight, bias, chosen)


def _fake(x, weight, bias, backend):
    return x.new_empty(*x.shape[:-1], len(weight))


def _fake_backward(grad, x, weight, mask, backend):
    shapes = x.shape, weight.shape, weight.shape[:1]
    return tuple(x.new_empty(shape if needed else (0,)) for shape, needed in zip(shapes, mask, strict=True))


def _setup_context(ctx, inputs, output):
    x, weight, _, ctx.backend = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, grad):
    mask = list(ctx.needs_input_grad[:3])
    grads = torch.ops.esvit_fast.linear_backward(grad, *ctx.saved_tensors, mask, ctx.backend)
    return *(g if needed else None for g, needed in zip(grads, mask, strict=True)), None


def _reference_backward(grad, x, weight, mask):
    grads = vjp(reference.linear, (x, weight, weight.new_zeros(len(weight))), grad)
    return tuple(g.contiguous() if needed else x.new_empty(0) for g, needed in zip(grads, mask, strict=True))


define("linear", "(Tensor x, Tensor weight, Tensor? bias, str backend) -> Tensor", _fake)
define(
    "linear_backward",
    "(Tensor grad, Tensor x, Tensor weight, bool[3] mask, str backend) -> (Tensor, Tensor, Tensor)",
    _fake_backward,
)
differentiate("linear", _backward, _setup_context)
implement("linear", "reference", reference.linear)
implement("linear_backward", "reference", _reference_backward)
implement("linear", "cpu", cpu.forward)
implement("linear_backward", "cpu", cpu.backward)
register_rule("linear", "cpu", cpu.refuse)
register_rule("linear", "reference", lambda facts: None)
