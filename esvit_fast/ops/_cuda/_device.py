"""Where CUDA C++ kernels can run."""

from __future__ import annotations

from collections.abc import Collection

import torch

from .. import _native
from .._plan import Facts
from .._proven import refuse_unproven


def refuse_device(op: str, facts: Facts, dtypes: Collection[torch.dtype]) -> str | None:
    """Why no kernel can run on a device and dtype, or should not where nobody asked for it; or None."""
    if facts.device_type != "cuda":
        return f"tensors are on {facts.device_type}"
    if torch.version.hip is not None:
        return "the kernels are for NVIDIA GPUs"
    if facts.capability is not None and facts.capability < (8, 0):
        return f"compute capability {'.'.join(map(str, facts.capability))} is below 8.0"
    reason = refuse_unproven(op, "cuda", facts.capability, facts.forced)
    if reason is not None:
        return reason
    if facts.dtype not in dtypes:
        return f"dtype {facts.dtype} is none of {', '.join(map(str, dtypes))}"
    return _native.CUDA_MISSING
