"""Region matching on the CPU: one tile of similarities at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.cpu import DTYPES, refuse_device
from .._core.plan import Facts


def refuse(facts: Facts) -> str | None:
    """Why this backend cannot run, or None."""
    if reason := refuse_device(facts, "student is", dtypes=None):
        return reason
    if (rounding := facts.options.get("match_dtype")) not in (None, *DTYPES):
        return f"match_dtype {rounding} is none of {', '.join(map(str, DTYPES))}"
    return None


def forward(student: Tensor, teacher: Tensor, match_dtype: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor]:
    """Index, similarity and margin; arguments as `esvit_fast.ops.region_match`."""
    exact = torch.promote_types(student.dtype, torch.float32)
    computed = torch.float64 if match_dtype == torch.float64 else exact
    views = teacher if teacher.ndim == 4 else teacher.unsqueeze(1)
    index, *found = torch.ops.esvit_fast_cpu.region_match(
        student.to(computed).contiguous(), views.to(computed).contiguous(), match_dtype
    )
    found = index, *(x.to(exact) for x in found)
    return found if teacher.ndim == 4 else tuple(x.squeeze(1) for x in found)
