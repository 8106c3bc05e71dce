"""How the windows of a batch are divided among the programs of a launch: by class, so that a program needs one tile."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .windows import cut_axis


class Cut(NamedTuple):
    """The windows of a map, sorted by class.

    Attributes:
        positions: int32 [windows, most tokens of a window], places in the map.
        classes: tokens and number of windows of each class.
    """

    positions: Tensor
    classes: tuple[tuple[int, int], ...]


@lru_cache(maxsize=512)
def cut(
    size: tuple[int, int],
    window_size: tuple[int, int],
    shift_size: tuple[int, int],
    pad_mode: str,
    device: torch.device,
) -> Cut:
    """The windows of a map of `size`, with the classes of `_windows.layout`; the tensor is on `device`."""
    rows, columns = (
        [
            torch.tensor([source for source, of in zip(axis.source, axis.kind, strict=True) if of == kind])
            for kind in range(len(axis.kinds))
        ]
        for axis in (cut_axis(*each, pad_mode) for each in zip(size, window_size, shift_size, strict=True))
    )  # of each kind, int64 [windows, tokens]
    places = [(y[:, None, :, None] * size[1] + x[:, None]).flatten(2).flatten(0, 1) for y in rows for x in columns]
    most = max(of_class.shape[1] for of_class in places)
    positions = torch.cat([F.pad(of_class, (0, most - of_class.shape[1])) for of_class in places])
    return Cut(positions.to(device, torch.int32), tuple((p.shape[1], p.shape[0]) for p in places))


class Shares(NamedTuple):
    """Which windows each program attends.

    Attributes:
        table: int32 [shares, 8]: class, first item, step, end of items, first window, windows of the class, their
            tokens, 0. An item is a window of the class in one image: image * windows + window.
        counts: number of shares of each class; they follow each other.
    """

    table: Tensor
    counts: tuple[int, ...]


@lru_cache(maxsize=512)
def shares(classes: tuple[tuple[int, int], ...], batch: int, wanted: int, device: torch.device) -> Shares:
    """Divide the windows of `Cut.classes` in a batch of maps into about `wanted` shares of nearly equal size."""
    size = max(1, -(-batch * sum(windows for _, windows in classes) // max(1, wanted)))
    rows, counts, begin = [], [], 0
    for number, (tokens, windows) in enumerate(classes):
        count = max(1, -(-batch * windows // size))
        rows += [[number, first, count, batch * windows, begin, windows, tokens, 0] for first in range(count)]
        counts.append(count)
        begin += windows
    return Shares(torch.tensor(rows, dtype=torch.int32, device=device), tuple(counts))
