"""What a loader gives: the crops of some images, and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..errors import UserError

Failure = tuple[int, str, str]
"""Index, path and reason of an unreadable image."""


class TooManyCorrupt(UserError):
    """More images are unreadable than the run tolerates."""


class Jpeg(NamedTuple):
    """An encoded image of a batch."""

    data: bytes
    size: tuple[int, int]
    """Height and width in pixels."""
    boxes: np.ndarray
    """int64 [V, 4]: top, left, height and width of its views."""
    key: tuple[int, int]
    """Epoch and image that the loader was asked for."""


class Jpegs(NamedTuple):
    """The encoded images of a batch. All in few tensors, as a worker's take a file descriptor each."""

    data: torch.Tensor
    """uint8: one after the other."""
    lengths: torch.Tensor
    """int64 [N]: bytes of each."""
    sizes: torch.Tensor
    """int64 [N, 2]."""
    boxes: torch.Tensor
    """int64 [N, V, 4]."""
    keys: torch.Tensor
    """int64 [N, 2]."""
    rows: torch.Tensor
    """int64 [N]: of the batch, rising."""

    @classmethod
    def join(cls, jpegs: Sequence[Jpeg], rows: Sequence[int]) -> Jpegs:
        """Encoded images as those rows of a batch."""
        data, sizes, boxes, keys = zip(*jpegs, strict=True)
        encoded = torch.frombuffer(bytearray().join(data), dtype=torch.uint8)
        numbers = ([*map(len, data)], sizes, np.stack(boxes), keys, rows)
        return cls(encoded, *map(torch.as_tensor, numbers))


class Batch(NamedTuple):
    """One micro-batch of one rank, on the CPU."""

    crops: list[torch.Tensor]
    """uint8 [V_r, B, 3, S, S], one for each resolution, in the order in which CropConfig.sizes first names it."""
    draws: torch.Tensor
    """float32 [V, B, A] in [0, 1): the uniforms that the augmentation uses."""
    index: torch.Tensor
    """int64 [B]: the image that each row shows."""
    failures: list[Failure]
    """The images that could not be read and were replaced."""
    jpegs: Jpegs | None = None
    """Images that a device is to decode: until then, `crops` are those of the other rows only, if there are any."""


class Sample(NamedTuple):
    """One image's part of a batch."""

    crops: list[torch.Tensor]
    draws: np.ndarray
    index: int
    failures: list[Failure]
    jpeg: Jpeg | None = None
    """An image that a device is to decode; then there are no crops."""
