"""Linear layers that take the fast path where there is one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..ops._plan import transformed


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`; by `esvit_fast.ops.linear` for float32 on a CPU, but for tensors and derivatives
    that only torch knows: subclasses, torch.func, forward mode."""
    served = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    if served and not torch.is_autocast_enabled("cpu") and not transformed() and {type(x), type(weight)} <= _PLAIN:
        return ops.linear(x, weight, bias)
    return F.linear(x, weight, bias)


_PLAIN = {Tensor, nn.Parameter}


class Linear(nn.Linear):
    """`torch.nn.Linear` with the same arguments, parameters and results; see `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return linear(x, self.weight, self.bias)


class StandIn(Linear):
    """What a foreign `torch.nn.Linear` is made, in place, by a change of class alone."""

    def _get_name(self) -> str:
        return "Linear"


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module does more than its class's forward."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(map(len, hooks)) or "forward" in vars(module)
