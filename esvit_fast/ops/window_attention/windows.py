"""Where the windows of a shifted, padded map lie, and what their attention adds to scores: shared by fused backends.

A window axis (rows or columns) is a list of windows, each with the map positions of its tokens in the order in which
they stand in the window. Windows whose tokens have the same places and sides of the shift's seam are of one kind; a
row kind and a column kind make a class. All that a window's scores need besides queries and keys is the tile of its
class: relative position bias, mask, and the weight of one virtual key that stands for all padded positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core import native

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
    """A class of windows.

    Attributes:
        tokens, pads: local positions that hold tokens, and those that are padded, int64 [n] and [N - n].
        side: of each local position, which of the four sides of the seams it is on, int64 [N].
    """

    tokens: Tensor
    pads: Tensor
    side: Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """All windows of a map.

    Attributes:
        rows, columns: int32 [windows along the axis, 2 + window]: kind, number of tokens, their positions on the axis.
        kinds: of rows and of columns; the class of a window is row kind * column_kinds + column kind.
        classes: by that number.
    """

    rows: Tensor
    columns: Tensor
    kinds: tuple[tuple[Kind, ...], tuple[Kind, ...]]
    classes: tuple[Class, ...]

    @property
    def column_kinds(self) -> int:
        """Number of column kinds."""
        return len(self.kinds[1])


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
    kinds = axes[0].kinds, axes[1].kinds
    with torch.inference_mode(False):  # what is kept may be needed by a backward pass later
        rows, columns = (_table(axis, window, device) for axis, window in zip(axes, window_size, strict=True))
    return Layout(rows, columns, kinds, _classes(*kinds, window_size[1], device))


@lru_cache(maxsize=512)
def _classes(y: tuple[Kind, ...], x: tuple[Kind, ...], width: int, device: torch.device) -> tuple[Class, ...]:
    with torch.inference_mode(False):
        return tuple(_class(a, b, width, device) for a in y for b in x)


def _table(axis: Axis, window: int, device: torch.device) -> Tensor:
    rows = [
        [kind, len(source), *source, *([0] * (window - len(source)))]
        for kind, source in zip(axis.kind, axis.source, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.int32, device=device)


def _class(y: Kind, x: Kind, width: int, device: torch.device) -> Class:
    rows, columns = (torch.tensor(kind.tokens, dtype=torch.int64, device=device) for kind in (y, x))
    tokens = (rows[:, None] * width + columns).flatten()
    rows, columns = (torch.tensor(kind.side, dtype=torch.int64, device=device) for kind in (y, x))
    side = (2 * rows[:, None] + columns).flatten()
    padded = torch.ones_like(side, dtype=torch.bool)
    padded[tokens] = False
    return Class(tokens, padded.nonzero().flatten(), side)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs of a query and a key, of all classes: where their bias is, and who is masked or not there.

    Attributes:
        index: int32 [classes, queries, keys], a row of the bias; one more than it has where there is no such pair.
        apart: bool, where a seam lies between the two; None where none does.
    """

    index: Tensor
    apart: Tensor | None


class _Scores(torch.autograd.Function):
    """``bias[index] + mask`` for a bias [rows, heads]: [classes, queries, keys, heads], `nothing` for no pair.

    Its derivative sums in a fixed order.
    """

    @staticmethod
    def forward(ctx, bias, pairs, mask_value, nothing):
        ctx.pairs, ctx.rows = pairs, len(bias)
        scores = F.embedding(pairs.index, F.pad(bias, (0, 0, 0, 1), value=nothing))
        if pairs.apart is not None:
            scores += (pairs.apart.to(bias.dtype) * mask_value).unsqueeze(-1)
        return scores

    @staticmethod
    def backward(ctx, grad):
        index = ctx.pairs.index
        if grad.device.type == "cpu" and native.CPU_MISSING is None:
            flat = grad.movedim(-1, 0).flatten(1).contiguous()
            dbias = torch.ops.esvit_fast_cpu.window_attention_bias_backward(flat, index.flatten(), ctx.rows)
        else:
            dbias = torch.ops.aten.embedding_dense_backward(grad, index, ctx.rows + 1, ctx.rows, False)[:-1]
        return dbias, None, None, None


def _pairs(classes: tuple[Class, ...], others: str, keys: int, width: int, dense: bool) -> _Pairs:
    """Pairs of all tokens with all `others`, "tokens" or "pads", for tables of window width or dense biases."""
    device = classes[0].side.device
    shape = len(classes), max(len(c.tokens) for c in classes), keys
    area = len(classes[0].side)
    rows = 2 * (area // width) - 1
    index = torch.full(shape, area**2 if dense else rows * (2 * width - 1), dtype=torch.int32, device=device)
    apart = torch.zeros(shape, dtype=torch.bool, device=device)
    for number, c in enumerate(classes):
        i, j = c.tokens[:, None], getattr(c, others)
        y, x = i // width - j // width + rows // 2, i % width - j % width + width - 1
        here = number, slice(i.shape[0]), slice(j.shape[0])
        index[here] = (i * area + j if dense else y * (2 * width - 1) + x).int()
        apart[here] = c.side[i] != c.side[j]
    return _Pairs(index, apart if apart.any() else None)


@lru_cache(maxsize=32)  # the large ones take megabytes
def _plan_of_tiles(
    kinds: tuple[tuple[Kind, ...], tuple[Kind, ...]], width: int, dense: bool, attend_pads: bool, device: torch.device
) -> tuple[_Pairs, _Pairs | None, Tensor]:
    """Pairs of two tokens, pairs of a token and a pad, and which key is the virtual one: bool [classes, keys]."""
    classes = _classes(*kinds, width, device)
    virtual = [attend_pads and len(c.pads) > 0 for c in classes]
    keys = max(len(c.tokens) + more for c, more in zip(classes, virtual, strict=True))
    keys += -keys % ALIGN
    with torch.inference_mode(False):  # what is kept may be needed by a backward pass later
        column = torch.zeros(len(classes), keys, dtype=torch.bool, device=device)
        for number, c in enumerate(classes):
            column[number, len(c.tokens) : len(c.tokens) + virtual[number]] = True
        tokens = _pairs(classes, "tokens", keys, width, dense)
        most = max(len(c.pads) for c in classes)
        return tokens, _pairs(classes, "pads", most, width, dense) if any(virtual) else None, column


def tiles(
    bias: Tensor, where: Layout, window_size: tuple[int, int], mask_value: float, attend_pads: bool, dtype: torch.dtype
) -> Tensor:
    """What is added to the scores of each class of windows: [classes, heads, tokens, keys], differentiable in bias.

    Keys beyond those of a class, up to a multiple of `ALIGN`, have -infinity, rows beyond its tokens too. Where
    padded positions are attended, they are one key after the tokens: all share key k and value v, so that their
    exponentials add up to ``exp(q k) * sum_j exp(bias_ij)``, a key k with bias ``logsumexp_j bias_ij``.
    """
    dense = bias.ndim == 3
    tokens, pads, column = _plan_of_tiles(where.kinds, window_size[1], dense, attend_pads, where.rows.device)
    bias, mask_value = (bias.flatten(1).t() if dense else bias).to(dtype), max(mask_value, _NEVER)
    scores = _Scores.apply(bias, tokens, mask_value, float("-inf"))
    if pads is not None:
        # no -infinity: the sum of nothing but exponentials of it has no gradient
        virtual = _Scores.apply(bias, pads, mask_value, _NEVER).clamp(min=_NEVER).logsumexp(2, keepdim=True)
        scores = torch.where(column[:, None, :, None], virtual, scores)
    return scores.permute(0, 3, 1, 2).contiguous()
