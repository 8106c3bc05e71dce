"""What kernels on a GPU are given for window attention, and what becomes of their sums: shared by Triton and CUDA."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from .._core.library import linearize
from .._core.plan import Facts, capability_of
from .shares import cut, shares
from .windows import cut_axis, layout, tiles


def extent(facts: Facts) -> tuple[int, int, int]:
    """Most tokens of a window, most keys with the virtual one, and head_dim."""
    options, (_, height, width, channels) = facts.options, facts.shapes["qkv"]
    window_size = tuple(options["window_size"])
    counts = _counts((height, width), window_size, tuple(options["shift_size"]), options["pad_mode"])
    whole = window_size[0] * window_size[1]
    virtual = "pad_kv" in facts.shapes
    return max(counts), max(n + (virtual and n < whole) for n in counts), channels // 3 // options["num_heads"]


@lru_cache(maxsize=512)
def _counts(size, window_size, shift_size, pad_mode) -> tuple[int, ...]:
    """The tokens of a window, for each class."""
    y, x = (cut_axis(*each, pad_mode).kinds for each in zip(size, window_size, shift_size, strict=True))
    return tuple(len(a.tokens) * len(b.tokens) for a in y for b in x)


def facts_of(qkv: Tensor, options, **others: Tensor | None) -> Facts:
    """What a launch configuration depends on."""
    shapes = {name: tuple(x.shape) for name, x in {"qkv": qkv, **others}.items() if x is not None}
    return Facts(qkv.device.type, qkv.dtype, shapes, options, capability_of(qkv.device))


class Tables:
    """The tensors and sizes of one call.

    Attributes:
        tensors: qkv, contiguous; tiles, float32 [classes, heads, tile_rows, tile_columns]; pad_kv, in the dtype of
            qkv, or None where no window has padded positions that are attended; positions and shares, int32.
        sizes: heads, channels, area, stride, tile_rows, tile_columns.
    """

    def __init__(self, qkv: Tensor, bias: Tensor, pad_kv: Tensor | None, options, programs: int):
        """`programs`: for how many of them windows and heads are divided."""
        (batch, *size, channels), heads = qkv.shape, options["num_heads"]
        window_size = options["window_size"]
        geometry = tuple(size), window_size, options["shift_size"], options["pad_mode"], qkv.device
        where, windows = layout(*geometry), cut(*geometry)
        attended = pad_kv is not None

        def tiled(bias):
            return tiles(bias, where, window_size, options["mask_value"], attended, torch.float32)

        table, self._counts = shares(windows.classes, batch, programs // heads, qkv.device)
        tile, self._back = linearize(tiled, (bias,))
        virtual = attended and any(len(c.pads) for c in where.classes)
        self.tensors = {
            "qkv": qkv.contiguous(),
            "tiles": tile,
            "pad_kv": pad_kv.to(qkv.dtype).contiguous() if virtual else None,
            "positions": windows.positions,
            "shares": table,
        }
        self.sizes = {
            "heads": heads,
            "channels": channels // 3,
            "area": size[0] * size[1],
            "stride": windows.positions.shape[1],
            "tile_rows": tile.shape[2],
            "tile_columns": tile.shape[3],
        }

    def bias_gradient(self, dtiles: Tensor) -> Tensor:
        """From the sums of shares, [shares, heads, tile_rows, tile_columns]."""
        (dbias,) = self._back(torch.stack([of_class.sum(0) for of_class in dtiles.split(self._counts)]))
        return dbias.contiguous()


def gradient(x: Tensor | None, sums: Tensor | None, like: Tensor) -> Tensor:
    """That of a small input from the sums of programs; zeros where there are none, empty where there is no input."""
    if x is None:
        return like.new_empty(0)
    return x.new_zeros(x.shape) if sums is None else sums.sum(0).to(x.dtype)
