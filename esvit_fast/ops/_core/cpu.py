"""Where the CPU's kernels can run."""

from __future__ import annotations

from collections.abc import Collection

import torch

from . import native
from .plan import Facts

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def refuse_device(facts: Facts, what: str, dtypes: Collection[torch.dtype] | None = DTYPES) -> str | None:
    """Why no kernel can run on a device and dtype, or None; `what`, with its verb, is on that device."""
    if facts.device_type != "cpu":
        return f"{what} on {facts.device_type}"
    if dtypes is not None and facts.dtype not in dtypes:
        return f"dtype {facts.dtype} is none of {', '.join(map(str, dtypes))}"
    return native.CPU_MISSING
