"""Linear layers that take the fast path where there is one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..ops._core.plan import exported, transformed
from .not_scripted import NotScripted


@torch.fx.wrap  # traced symbolically, it is a call of its own
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`; by `esvit_fast.ops.linear` for float32 on a CPU, but for tensors and derivatives
    that only torch knows: subclasses, torch.func, forward mode. What is exported is torch's."""
    plain = type(x) in _PLAIN and type(weight) in _PLAIN and not transformed() and not exported()
    served = plain and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    if served and not torch.is_autocast_enabled("cpu"):
        return ops.linear(x, weight, bias)
    return F.linear(x, weight, bias)


_PLAIN = {Tensor, nn.Parameter}


class Linear(NotScripted, nn.Linear):
    """`torch.nn.Linear` with the same arguments, parameters and results; see `linear`.

    Tools that look for the very class `torch.nn.Linear`, as torch.ao.quantization does, pass it by, until
    `layer.__class__ = torch.nn.Linear` makes it one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return linear(x, self.weight, self.bias)
