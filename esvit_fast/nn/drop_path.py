"""Stochastic depth that does not depend on how a batch is divided."""

from __future__ import annotations

import timm.layers
import torch
from torch import Tensor, nn


class DropPath(timm.layers.DropPath):
    """timm's, but for draws that are made for a whole batch where `share_draws` says which images of it these are.

    Ranks and accumulation steps whose generators are alike then drop what one process with the whole batch would drop.
    """

    images: Tensor | None = None
    batch_size: int = 0

    def forward(self, x: Tensor) -> Tensor:
        """[views * B, ...], view by view -> the same; while training, a row is 0 or scaled by 1 / (1 - drop_prob)."""
        if self.images is None or self.drop_prob == 0 or not self.training:
            return super().forward(x)
        views = len(x) // len(self.images)
        kept = torch.rand(views, self.batch_size, device=x.device)[:, self.images] >= self.drop_prob
        scale = kept.flatten().to(x.dtype) / max(1 - self.drop_prob, torch.finfo(x.dtype).tiny)
        return x * scale.view(-1, *[1] * (x.ndim - 1))


def share_draws(module: nn.Module, images: Tensor, batch_size: int) -> None:
    """Let every DropPath of a module draw for a batch of which it will see the images at these positions, int64 [B]."""
    for part in module.modules():
        if isinstance(part, DropPath):
            part.images, part.batch_size = images, batch_size
