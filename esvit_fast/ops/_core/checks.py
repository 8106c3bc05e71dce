"""What operators refuse before they choose a backend."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def check_tensors(tensors: Mapping[str, Tensor | None]) -> None:
    """Raise unless all that are there are floating point and on the device of the first, which is."""
    first, device = next((name, tensor.device) for name, tensor in tensors.items())
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not tensor.is_floating_point():
            raise TypeError(f"{name} has dtype {tensor.dtype}; it must be a floating-point tensor")
        if tensor.device != device:
            raise TypeError(f"{name} is on {tensor.device} but {first} is on {device}; move it there")
