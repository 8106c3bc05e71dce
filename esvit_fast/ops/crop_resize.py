"""Crops of an image on the CPU: what torch's antialiased bicubic interpolation of bytes gives, bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor

from ._core import native


def available() -> bool:
    """Whether the library has the kernel."""
    return native.CPU_MISSING is None


def crop_resize(image: Tensor, boxes: Tensor) -> Tensor:
    """All crops of an image, each cut out and resized to a square.

    Columns are made rows once, so that vectors hold what shares a weight both along and across rows.

    Args:
        image: uint8 [H, W, 3].
        boxes: int64 [V, 5] of (top, left, height, width) in the image, and the side of the result, in px.

    Returns:
        uint8, [3, side, side] of each box, one behind the other.
    """
    return torch.ops.esvit_fast_cpu.crop_resize(image.contiguous(), boxes.contiguous())
