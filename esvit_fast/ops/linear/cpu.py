"""Linear layers on the CPU in float32.

Not by oneDNN: some of its kernels for small matrices let the stack pointer point into allocated memory, and a signal
then writes over what lies below. Its convolutions, and its matrix products in bfloat16, do not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core.cpu import refuse_device
from .._core.plan import Facts


def refuse(facts: Facts) -> str | None:
    """Why this backend cannot run, or None."""
    return refuse_device(facts, "x is", (torch.float32,))


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The output; arguments as `esvit_fast.ops.linear`."""
    return _product(x, weight, bias, transposed=True)


def backward(grad: Tensor, x: Tensor | None, weight: Tensor | None, mask: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; empty ones where mask is False, for which the other tensors may be None."""
    dx, dweight, dbias = (grad.new_empty(0) for _ in range(3))
    if mask[0]:
        dx = _product(grad, weight, None, transposed=False)
    if mask[1]:
        dweight, total = torch.ops.esvit_fast_cpu.linear_weight_gradient(rows(grad).contiguous(), rows(x).contiguous())
        dbias = total if mask[2] else dbias
    elif mask[2]:
        dbias = rows(grad).sum(0)
    return dx, dweight, dbias


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    outs, bias = weight.shape[0 if transposed else 1], None if bias is None else bias.contiguous()
    out = torch.ops.esvit_fast_cpu.linear(rows(x).contiguous(), weight.contiguous(), bias, transposed)
    # a view could not be changed in place under autograd
    return torch.ops.aten._unsafe_view(out, [*x.shape[:-1], outs])


def rows(x: Tensor) -> Tensor:
    """[..., channels] -> [rows, channels], of none as well."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
