"""Where Triton kernels can run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec

import torch

from .plan import Facts

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Kernels run in Triton's interpreter, on CPU tensors, as Triton reads this variable when it is imported."""


def _missing() -> str | None:
    if find_spec("triton") is None:
        return "triton is not installed; it comes with torch on Linux"
    if find_spec("esvit_fast.kernels") is None:
        return "esvit_fast.kernels is not there; install with `pip install .`"
    return None


MISSING = _missing()
"""Why there are no Triton kernels, or None if there are."""


def constants(config: Mapping[str, int]) -> dict[str, int]:
    """What a kernel is launched with: sizes of blocks are its compile-time arguments, which are capitals."""
    return {name.upper() if name.startswith("block") else name: value for name, value in config.items()}


def refuse_device(facts: Facts) -> str | None:
    """Why no Triton kernel can run on a device and dtype, or None."""
    if facts.device_type != "cuda" and not (INTERPRETED and facts.device_type == "cpu"):
        return f"tensors are on {facts.device_type}"
    if facts.device_type == "cpu" and facts.forced != "triton":
        return "Triton's interpreter only runs when it is asked for"
    if facts.dtype not in DTYPES:
        return f"dtype {facts.dtype} is none of {', '.join(str(dtype) for dtype in DTYPES)}"
    if facts.device_type == "cpu" and facts.dtype == torch.bfloat16:
        return "Triton's interpreter computes bfloat16 wrongly"
    if facts.device_type == "cuda" and torch.version.hip is not None:
        return "the kernels have parts that only NVIDIA GPUs run"
    if facts.capability is not None and facts.capability < (8, 0):
        return f"compute capability {'.'.join(map(str, facts.capability))} is below 8.0"
    return MISSING
