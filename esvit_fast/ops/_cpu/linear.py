"""Linear layers on the CPU: oneDNN, which torch itself does not use for float32, and a kernel for weight gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._plan import Facts
from ._device import refuse_device

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def refuse(facts: Facts) -> str | None:
    """Why this backend cannot run, or None."""
    reason = refuse_device(facts, "x is", (torch.float32,))
    return "this torch has no oneDNN that can be called" if reason is None and not _ONEDNN else reason


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The output; arguments as `esvit_fast.ops.linear`."""
    if not x.numel() or not len(weight):
        return x.new_zeros(*x.shape[:-1], len(weight)) if bias is None else bias.expand(*x.shape[:-1], -1).clone()
    # of a bias it takes the memory for what it has to be
    bias = None if bias is None else bias.contiguous()
    out = torch.ops.mkldnn._linear_pointwise(rows(x), weight, bias, "none", [], "")
    # a view could not be changed in place under autograd
    return torch.ops.aten._unsafe_view(out, [*x.shape[:-1], len(weight)])


def backward(grad: Tensor, x: Tensor | None, weight: Tensor | None, mask: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; empty ones where mask is False, for which the other tensors may be None."""
    dx, dweight, dbias = (grad.new_empty(0) for _ in range(3))
    if mask[0]:
        dx = forward(grad, weight.t(), None)
    if mask[1]:
        dweight, total = torch.ops.esvit_fast_cpu.linear_weight_gradient(rows(grad).contiguous(), rows(x).contiguous())
        dbias = total if mask[2] else dbias
    elif mask[2]:
        dbias = rows(grad).sum(0)
    return dx, dweight, dbias


def rows(x: Tensor) -> Tensor:
    """[..., channels] -> [rows, channels], of none as well."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
