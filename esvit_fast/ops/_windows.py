"""Where the windows of a shifted, padded map lie, and what their attention adds to scores: shared by fused backends.

A window axis (rows or columns) is a list of windows, each with the map positions of its tokens in the order in which
they stand in the window. Windows whose tokens have the same places and sides of the shift's seam are of one kind; a
row kind and a column kind make a class. All that a window's scores need besides queries and keys is the tile of its
class: relative position bias, mask, and the weight of one virtual key that stands for all padded positions.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import reference

ALIGN = 16
"""Tiles have a multiple of so many columns: a whole number of vectors, for any instruction set."""
_NEVER = -1e30  # stands for a mask of -infinity, whose logarithms of sums would have no gradient


class Kind(NamedTuple):
    """What windows of an axis may have in common: the local positions that hold tokens, and each position's side."""

    tokens: tuple[int, ...]
    side: tuple[bool, ...]


class Axis(NamedTuple):
    """An axis cut into windows.

    Attributes:
        kinds: without repetition, in order of appearance.
        kind: of each window, an index into kinds.
        source: for each window, the map position of each of its tokens.
    """

    kinds: tuple[Kind, ...]
    kind: tuple[int, ...]
    source: tuple[tuple[int, ...], ...]


def cut_axis(size: int, window: int, shift: int, pad_mode: str) -> Axis:
    """Cut `size` positions into windows after padding them to whole windows and shifting them cyclically."""
    padded = size + -size % window
    kinds: dict[Kind, int] = {}
    kind, source = [], []
    for start in range(0, padded, window):
        places = range(start, start + window)
        if pad_mode == "before_roll":
            origin = [(p + shift) % padded for p in places]
        else:
            origin = [(p + shift) % size if p < size else size for p in places]
        tokens = tuple(i for i, o in enumerate(origin) if o < size)
        side = tuple(p >= padded - shift for p in places)
        kind.append(kinds.setdefault(Kind(tokens, side), len(kinds)))
        source.append(tuple(origin[i] for i in tokens))
    return Axis(tuple(kinds), tuple(kind), tuple(source))


class Class(NamedTuple):
    """A class of windows: positions that hold tokens [n] and that are padded [p], and who is across the seam.

    Attributes:
        tokens, pads: local positions, int64.
        apart, apart_pads: bool [n, n] and [n, p], or None where nobody is.
    """

    tokens: Tensor
    pads: Tensor
    apart: Tensor | None
    apart_pads: Tensor | None


class Layout(NamedTuple):
    """All windows of a map.

    Attributes:
        rows, columns: int32 [windows along the axis, 2 + window]: kind, number of tokens, their positions on the axis.
        column_kinds: number of column kinds; the class of a window is row kind * column_kinds + column kind.
        classes: by that number.
    """

    rows: Tensor
    columns: Tensor
    column_kinds: int
    classes: tuple[Class, ...]


@lru_cache(maxsize=512)
def layout(
    size: tuple[int, int],
    window_size: tuple[int, int],
    shift_size: tuple[int, int],
    pad_mode: str,
    device: torch.device,
) -> Layout:
    """The windows of a map of `size`; tensors are on `device`."""
    axes = [cut_axis(*each, pad_mode) for each in zip(size, window_size, shift_size, strict=True)]
    with torch.inference_mode(False):  # what is kept may be needed by a backward pass later
        classes = tuple(_class(y, x, window_size[1], device) for y in axes[0].kinds for x in axes[1].kinds)
        rows, columns = (_table(axis, window, device) for axis, window in zip(axes, window_size, strict=True))
    return Layout(rows, columns, len(axes[1].kinds), classes)


def _table(axis: Axis, window: int, device: torch.device) -> Tensor:
    rows = [
        [kind, len(source), *source, *([0] * (window - len(source)))]
        for kind, source in zip(axis.kind, axis.source, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.int32, device=device)


def _class(y: Kind, x: Kind, width: int, device: torch.device) -> Class:
    side = [2 * a + b for a in y.side for b in x.side]
    tokens = [a * width + b for a in y.tokens for b in x.tokens]
    pads = sorted(set(range(len(side))) - set(tokens))
    apart, apart_pads = (
        torch.tensor([[side[i] != side[j] for j in others] for i in tokens], device=device).view(len(tokens), -1)
        for others in (tokens, pads)
    )
    return Class(
        torch.tensor(tokens, dtype=torch.int64, device=device),
        torch.tensor(pads, dtype=torch.int64, device=device),
        apart if apart.any() else None,
        apart_pads if apart_pads.any() else None,
    )


def tiles(
    bias: Tensor, where: Layout, window_size: tuple[int, int], mask_value: float, attend_pads: bool, dtype: torch.dtype
) -> Tensor:
    """What is added to the scores of each class of windows: [classes, heads, tokens, keys], differentiable in bias.

    Keys beyond those of a class, up to a multiple of `ALIGN`, have -infinity, rows beyond its tokens too. Where
    padded positions are attended, they are one key after the tokens: all share key k and value v, so that their
    exponentials add up to ``exp(q k) * sum_j exp(bias_ij)``, a key k with bias ``logsumexp_j bias_ij``.
    """
    dense = bias if bias.ndim == 3 else reference.dense_bias(bias, window_size)
    dense = dense.to(dtype)
    mask_value = max(mask_value, _NEVER)
    parts = []
    for c in where.classes:
        part = dense if not len(c.pads) else dense[:, c.tokens[:, None], c.tokens]
        if c.apart is not None:
            part = part + torch.where(c.apart, mask_value, 0.0).to(dtype)
        if attend_pads and len(c.pads):
            pads = dense[:, c.tokens[:, None], c.pads]
            if c.apart_pads is not None:
                pads = pads + torch.where(c.apart_pads, mask_value, 0.0).to(dtype)
            part = torch.cat([part, pads.logsumexp(-1, keepdim=True)], -1)
        parts.append(part)
    rows, columns = (max(part.shape[i] for part in parts) for i in (1, 2))
    columns += -columns % ALIGN
    return torch.stack([F.pad(p, (0, columns - p.shape[2], 0, rows - p.shape[1]), value=float("-inf")) for p in parts])
