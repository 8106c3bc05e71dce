"""Linear layers on the CPU: oneDNN, which torch itself does not use for float32, and a kernel for weight gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _native
from .._plan import Facts

_ONEDNN = torch.backends.mkldnn.is_available()


def refuse(facts: Facts) -> str | None:
    """Why this backend cannot run, or None."""
    if facts.device_type != "cpu":
        return f"x is on {facts.device_type}"
    if facts.dtype != torch.float32:
        return f"dtype {facts.dtype} is not torch.float32"
    if not _ONEDNN:
        return "this torch was built without oneDNN"
    return _native.CPU_MISSING


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The output; arguments as `esvit_fast.ops.linear`."""
    if not x.numel():
        return x.new_zeros(*x.shape[:-1], len(weight)) if bias is None else bias.expand(*x.shape[:-1], -1).clone()
    out = torch.ops.mkldnn._linear_pointwise(x.reshape(-1, x.shape[-1]), weight, bias, "none", [], "")
    # a view could not be changed in place under autograd
    return torch.ops.aten._unsafe_view(out, [*x.shape[:-1], len(weight)])


def backward(grad: Tensor, x: Tensor, weight: Tensor, mask: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; empty ones where mask is False."""
    dx = dweight = dbias = x.new_empty(0)
    if mask[0]:
        dx = forward(grad, weight.t(), None)
    if mask[1] or mask[2]:
        flat = [tensor.reshape(-1, tensor.shape[-1]).contiguous() for tensor in (grad, x)]
        dweight, dbias = torch.ops.esvit_fast_cpu.linear_weight_gradient(*flat)
    return dx, dweight if mask[1] else x.new_empty(0), dbias if mask[2] else x.new_empty(0)
