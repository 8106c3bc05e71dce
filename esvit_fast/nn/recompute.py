"""Cheap functions that the backward pass computes again, rather than keep what they gave."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def through(first: nn.Module, x: Tensor, then: Callable[[Tensor], Tensor]) -> Tensor:
    """``then(first(x))``, of which x is kept for the backward pass, but not ``first(x)``.

    For a norm or an activation, whose own derivative needs x, in front of a linear layer. The numbers are those
    without it, in any precision. Compilers and others who decide what is kept, as `torch.utils.checkpoint` does, are
    left to it.
    """
    middle = first(x)
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and middle.requires_grad) or _others_keep():
        return then(middle)
    place, count, device = middle.data_ptr(), middle.numel(), x.device.type
    precision = {"dtype": torch.get_autocast_dtype(device), "enabled": torch.is_autocast_enabled(device)}

    def pack(saved: Tensor) -> Tensor | torch.Size:
        same = saved.data_ptr() == place and saved.numel() == count and saved.is_contiguous()
        return saved.shape if same else saved

    def unpack(packed: Tensor | torch.Size) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        with torch.autocast(device, **precision):
            return first.forward(x.detach()).view(packed)  # not a call, which hooks would count

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return then(middle)


def _others_keep() -> bool:
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return hooks is not None and hooks[0].__module__ != __name__
