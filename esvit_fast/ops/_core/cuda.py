"""Where CUDA C++ kernels can run."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from . import native
from .plan import Facts


def refuse_device(facts: Facts, dtypes: Collection[torch.dtype]) -> str | None:
    """Why no kernel can run on a device and dtype, or None."""
    if facts.device_type != "cuda":
        return f"tensors are on {facts.device_type}"
    if torch.version.hip is not None:
        return "the kernels are for NVIDIA GPUs"
    if facts.capability is not None and facts.capability < (8, 0):
        return f"compute capability {'.'.join(map(str, facts.capability))} is below 8.0"
    if facts.dtype not in dtypes:
        return f"dtype {facts.dtype} is none of {', '.join(map(str, dtypes))}"
    return native.CUDA_MISSING


def aligned(x: Tensor) -> Tensor:
    """Kernels load 16 bytes at a time, at multiples of 16, where a view may not begin."""
    return x.clone() if x.data_ptr() % 16 else x
