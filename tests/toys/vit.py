"""A backbone of one file: a vision transformer with a class token, whose blocks are its stages."""

import torch
from torch import nn

from esvit_fast.models import Backbone, register_backbone


@register_backbone(name="toy_vit")
class ToyViT(Backbone):
    def __init__(self, image_size=16, dim=32, depth=2, drop_path_rate=0.0):
        super().__init__()
        self.image_size, self.num_features = image_size, dim
        self.patches, self.token = nn.Conv2d(3, dim, 4, stride=4), nn.Parameter(torch.zeros(1, 1, dim))
        make = lambda: nn.TransformerEncoderLayer(dim, 4, 2 * dim, 0.0, "gelu", batch_first=True, norm_first=True)  # noqa: E731
        self.blocks = nn.ModuleList(make() for _ in range(depth))

    def forward(self, images):
        return self._tokens(images)[:, 0]

    def forward_regions(self, images):
        tokens = self._tokens(images)
        return tokens[:, 0], tokens[:, 1:]

    def forward_last_blocks(self, images, blocks):
        self.check_blocks(blocks)
        return [tokens.mean(1) for tokens in self._all(images)[-blocks:]]

    def region_grid(self, height, width):
        return height // 4, width // 4

    def stages(self):
        return self.blocks

    def depths(self):
        return [1] * len(self.blocks)

    def _tokens(self, images):
        return self._all(images)[-1]

    def _all(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        x, every = torch.cat([self.token.expand(len(x), -1, -1), x], 1), []
        for block in self.blocks:
            every.append(x := block(x))
        return every
