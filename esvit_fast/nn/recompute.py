"""Cheap functions that the backward pass computes again, rather than keep what they gave."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..ops._core.plan import exported, transformed
from .stand_in import has_hooks


def through(first: nn.Module, x: Tensor, then: Callable[[Tensor], Tensor]) -> Tensor:
    """``then(first(x))``, of which x is kept for the backward pass, but not ``first(x)``.

    For a norm or an activation, whose own derivative needs x, in front of what begins with a linear layer. The numbers
    are those without it, in any precision. Compilers and others who decide what is kept, as `torch.utils.checkpoint`
    does, are left to it.
    """
    middle = first(x)
    if recorded(middle) or transformed() or has_hooks(first) or _others_keep():
        return then(middle)
    if not (torch.is_grad_enabled() and middle.requires_grad):
        return then(middle)
    device = x.device.type
    precision = {"dtype": torch.get_autocast_dtype(device), "enabled": torch.is_autocast_enabled(device)}
    # the linear layer would do this, and keep what it made of it
    dtype = precision["dtype"] if precision["enabled"] and middle.dtype == torch.float32 else middle.dtype
    middle = middle.to(dtype)
    place, count = _place(middle), middle.numel()

    def pack(saved: Tensor) -> Tensor | torch.Size:
        same = _place(saved) == place and saved.numel() == count and saved.is_contiguous()
        return saved.shape if same else saved

    def unpack(packed: Tensor | torch.Size) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        with torch.autocast(device, **precision):
            return first(x.detach()).to(dtype).view(packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return then(middle)


def recorded(x: Tensor) -> bool:
    """Whether a graph is made, of which x is part: whoever runs it decides what is kept for the backward pass."""
    return isinstance(x, torch.fx.Proxy) or torch.compiler.is_compiling() or exported()


def _place(x: Tensor) -> tuple[int, int]:
    """Where a tensor begins; of one without memory, as in a plan, too."""
    return x.untyped_storage()._cdata, x.storage_offset()


def _others_keep() -> bool:
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return hooks is not None and hooks[0].__module__ != __name__
