"""Launch configurations of the CUDA C++ kernels, as data: no tuning at run time.

They were chosen from the registers and shared memory of the built library (benchmarks/manifest), not from times.
"""

from __future__ import annotations

from collections.abc import Mapping

PROCESSORS = {80: 108, 90: 132, 100: 148}
"""Multiprocessors of an A100, H100 and B200."""

HEAD_DIMS = (16, 32, 64)
KEY_TILES = (2, 4, 7, 8)
"""Windows of up to so many times 8 keys are a variant of their own."""
LARGEST_WINDOW = 8 * KEY_TILES[-1]

BLOCKS: Mapping[str, Mapping[int, tuple[int, int, int, int]]] = {
    "programs": {16: (5, 4, 3, 3), 32: (5, 4, 3, 3), 64: (3, 2, 2, 2)},
    "programs_backward": {16: (16, 7, 3, 3), 32: (12, 6, 3, 3), 64: (8, 4, 2, 2)},
}
"""By pass, head_dim and variant: blocks that a multiprocessor has room for, of four warps in the forward pass, and of
a warp for each 16 keys in the backward pass."""
BLOCKS_OF_80 = {16: (16, 7, 3, 3), 32: (11, 5, 2, 2), 64: (7, 3, 1, 1)}
"""Of the backward pass on an A100, which has less shared memory."""


def architecture(capability: tuple[int, int] | None) -> int:
    """The newest architecture with a table that is not newer than `capability`; without a GPU, that of the H100."""
    if capability is None:
        return 90
    return max(number for number in PROCESSORS if number <= max(80, 10 * capability[0] + capability[1]))


def window_attention(capability: tuple[int, int] | None, keys: int, head_dim: int) -> dict[str, int]:
    """Launch configuration for windows of at most so many keys, with the virtual one."""
    arch = architecture(capability)
    variant = next(i for i, tiles in enumerate(KEY_TILES) if 8 * tiles >= keys)
    blocks = {name: of[head_dim][variant] for name, of in BLOCKS.items()}
    if arch == 80:
        blocks["programs_backward"] = BLOCKS_OF_80[head_dim][variant]
    return {"key_tiles": KEY_TILES[variant], **{name: PROCESSORS[arch] * count for name, count in blocks.items()}}
