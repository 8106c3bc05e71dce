"""The augmentation of crops on the CPU: the rows of a sample pass through the cache once, or twice for contrast."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._core.cpu import refuse_device
from .._core.plan import Facts

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def refuse(facts: Facts) -> str | None:
    """Why this backend cannot run, or None."""
    return refuse_device(facts.of_result(), "images are", _DTYPES)


def forward(
    images: Tensor,
    parameters: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    blur_radius: int,
    dtype: torch.dtype,
) -> Tensor:
    """Augmented images; arguments as `esvit_fast.ops.multicrop_augment`."""
    levels = torch.tensor([[255 * v for v in mean], [1 / (255 * v) for v in std]], dtype=torch.float32, device="cpu")
    return torch.ops.esvit_fast_cpu.multicrop_augment(
        images.contiguous(), parameters.contiguous(), levels, blur_radius, dtype
    )
