"""Small models and sources that the tests of this folder share."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from esvit_fast.data import CorruptImage
from esvit_fast.evaluation import Targets, list_protocols, register_protocol, register_targets
from esvit_fast.evaluation.protocol import PROTOCOLS
from esvit_fast.evaluation.targets import TARGETS


class ArraySource:
    """Images in memory; index `broken` cannot be read."""

    def __init__(self, images, labels=None, classes=(), broken=(), name="arrays"):
        self.images, self.labels = images, labels
        self.classes, self.broken, self.name = tuple(classes), set(broken), name

    def __len__(self):
        return len(self.images)

    def image(self, index):
        if index in self.broken:
            raise CorruptImage(self.path(index), "truncated")
        return self.images[index]

    def label(self, index):
        return -1 if self.labels is None else int(self.labels[index])

    def path(self, index):
        return f"{self.name}/{index}.png"


class TinyModel(nn.Module):
    """Mean colours of cells of `patch` pixels through a random matrix, with the interface of a backbone."""

    def __init__(self, patch=4, image_size=16, width=8, heads=2, seed=0):
        super().__init__()
        self.patch_size, self.image_size, self.num_features, self.heads = patch, image_size, width, heads
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3, width, generator=generator))
        self.drop = nn.Dropout(0.5)

    def forward_features(self, x: Tensor) -> Tensor:
        cells = nn.functional.avg_pool2d(x, self.patch_size).permute(0, 2, 3, 1)
        return self.drop(cells @ self.weight)

    def forward_regions(self, x: Tensor) -> tuple[Tensor, Tensor]:
        grid = self.forward_features(x)
        return grid.mean((1, 2)), grid.flatten(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_regions(x)[0]

    def forward_last_blocks(self, x: Tensor, n: int) -> list[Tensor]:
        return [self(x) * (i + 1) for i in range(n)]

    def attention_maps(self, x: Tensor) -> Tensor:
        grid = self.forward_features(x).square().sum(-1)
        share = grid / grid.sum((1, 2), keepdim=True)
        return share[:, None].expand(-1, self.heads, -1, -1).float()


def noise_images(count, side=20, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (side, side + 4, 3), dtype=np.uint8) for _ in range(count)]


def coloured_images(labels, side=20, seed=0):
    """Images of up to three classes, which are their mean colours."""
    rng = np.random.default_rng(seed)
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])
    return [np.clip(colours[y] + rng.integers(-30, 31, (side, side, 3)), 0, 255).astype(np.uint8) for y in labels]


@contextmanager
def registering():
    """A function that registers protocols and kinds of targets, which are gone afterwards."""
    assert list_protocols()  # those of the package stay
    known = [(registry, set(registry)) for registry in (PROTOCOLS, TARGETS)]
    try:
        yield lambda kind: (register_targets if issubclass(kind, Targets) else register_protocol)(kind)
    finally:
        for registry, names in known:
            for name in set(registry) - names:
                del registry._things[name]
