"""The augmentation of crops in Triton: means for contrast, pixels, and the blur along and across rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._core.plan import Facts
from .._core.triton import refuse_device


def refuse(facts: Facts) -> str | None:
    """Why the kernels cannot run, or None."""
    return refuse_device(facts.of_result())


def forward(
    images: Tensor,
    parameters: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    blur_radius: int,
    dtype: torch.dtype,
) -> Tensor:
    """Augmented images; arguments as `esvit_fast.ops.multicrop_augment`."""
    from ...kernels._tables import MULTICROP_AUGMENT

    out = images.new_empty(images.shape, dtype=dtype)
    images, parameters = images.contiguous(), parameters.to(images.device, non_blocking=True).contiguous()
    levels = *(255 * v for v in mean), *(1 / (255 * v) for v in std)
    # what is to be blurred is held for a few samples at a time
    count = max(1, min(len(images), MULTICROP_AUGMENT["values"] // images.shape[1:].numel()))
    made = [images.new_empty((count, *images.shape[1:]), dtype=torch.float32) for _ in range(2)]
    with torch.cuda.device_of(images):
        for part in (slice(first, first + count) for first in range(0, len(images), count)):
            _augment(images[part], parameters[part], out[part], levels, blur_radius, *made)
    return out


def _augment(images, parameters, out, levels, radius, held, blurred) -> None:
    from ...kernels import multicrop_augment as kernels
    from ...kernels._tables import MULTICROP_AUGMENT as TABLE

    samples, (height, width) = len(images), images.shape[2:]
    pixels = height * width
    constants = {"BLOCK": TABLE["block"], "num_warps": TABLE["num_warps"]}
    blocks = -(-pixels // TABLE["block"])
    sums = images.new_empty((samples, blocks), dtype=torch.float32)
    kernels.multicrop_augment_mean[(samples * blocks,)](images, parameters, sums, width, pixels, blocks, **constants)
    kernels.multicrop_augment_color[(samples * blocks,)](
        images, parameters, sums, held, out, *levels, width, pixels, blocks, BLOCKS=_power(blocks), **constants
    )
    constants = {"BLOCK": TABLE["block_blur"], "num_warps": TABLE["num_warps_blur"]}
    blocks = -(-pixels // TABLE["block_blur"])
    sizes, grid = (width, pixels, radius, blocks), (samples * 3 * blocks,)
    kernels.multicrop_augment_blur_along[grid](held, parameters, blurred, *sizes, **constants)
    kernels.multicrop_augment_blur_across[grid](blurred, parameters, out, *levels, *sizes, **constants)


def _power(count: int) -> int:
    return 1 << (count - 1).bit_length()
