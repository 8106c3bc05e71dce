"""Region matching in Triton: one block of similarities at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.plan import Facts
from .._core.triton import DTYPES, constants, refuse_device


def refuse(facts: Facts) -> str | None:
    """Why the kernel cannot run, or None."""
    reason = refuse_device(facts)
    if reason is None and facts.options.get("match_dtype") not in (None, *DTYPES):
        return f"match_dtype {facts.options['match_dtype']} is none of {', '.join(map(str, DTYPES))}"
    return reason


def forward(student: Tensor, teacher: Tensor, match_dtype: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor]:
    """Index, similarity and margin; arguments as `esvit_fast.ops.region_match`."""
    import triton.language as tl

    from ...kernels._tables import REGION_MATCH
    from ...kernels.region_match import region_match

    tokens, candidates, channels = student.shape[1], *teacher.shape[-2:]
    shape = (*teacher.shape[:-2], tokens)
    index, similarity, margin = (student.new_empty(shape, dtype=d) for d in (torch.int64, torch.float32, torch.float32))
    blocks = -(-tokens // REGION_MATCH["block_m"])
    programs = index.numel() // max(1, tokens) * blocks
    rounding = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}.get(match_dtype, tl.float32)
    if programs:
        with torch.cuda.device_of(student):
            region_match[(programs,)](
                student.contiguous(),
                teacher.contiguous(),
                index,
                similarity,
                margin,
                teacher.shape[1] if teacher.ndim == 4 else 1,
                tokens,
                candidates,
                channels,
                blocks,
                ROUNDING=rounding,
                **constants(REGION_MATCH),
            )
    return index, similarity, margin
