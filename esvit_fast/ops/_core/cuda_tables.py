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

BLOCKS: Mapping[int, Mapping[str, Mapping[int, tuple[int, ...]]]] = {
    80: {
        "programs": {16: (8, 5, 3, 3), 32: (6, 4, 3, 3), 64: (4, 3, 2, 2)},
        "programs_backward": {16: (15, 6, 2, 2), 32: (10, 4, 2, 2), 64: (10, 4, 2, 2)},
    },
    90: {
        "programs": {16: (8, 5, 3, 3), 32: (6, 4, 3, 3), 64: (4, 3, 2, 2)},
        "programs_backward": {16: (21, 8, 3, 3), 32: (15, 6, 3, 2), 64: (14, 6, 2, 2)},
    },
    100: {
        "programs": {16: (6, 4, 3, 3), 32: (5, 3, 3, 3), 64: (3, 2, 2, 2)},
        "programs_backward": {16: (21, 8, 3, 3), 32: (15, 6, 3, 2), 64: (12, 5, 2, 2)},
    },
}
"""By architecture, pass, head_dim and variant: the blocks that a multiprocessor has room for. They are of four warps in
the forward pass, and of a warp for each 16 keys in the backward pass."""


def window_attention(capability: tuple[int, int] | None, keys: int, head_dim: int) -> dict[str, int]:
    """Launch configuration for windows of at most so many keys, with the virtual one."""
    from ...kernels._tables import architecture

    arch = architecture(capability)
    variant = next(i for i, tiles in enumerate(KEY_TILES) if 8 * tiles >= keys)
    programs = {name: PROCESSORS[arch] * of[head_dim][variant] for name, of in BLOCKS[arch].items()}
    return {"key_tiles": KEY_TILES[variant], **programs}


ROW_BYTES = {80: 163 * 1024, 87: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Shared memory that a block may have, by architecture: what a row of logits has to fit, of `soft_cross_entropy`."""
ROW_BYTES_OF_OTHERS = 99 * 1024
LOGITS = 8
"""A row has a multiple of so many."""


def row_bytes(prototypes: int, threads: int = 1024) -> int:
    """Shared memory of a block that has a row of so many logits: them, and a number of each warp."""
    return 2 * prototypes + 4 * (threads // 32)
