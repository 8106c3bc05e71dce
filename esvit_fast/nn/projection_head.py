"""DINO's projection head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from .linear import Linear, linear
from .not_scripted import NotScripted


class _WeightNormLinear(nn.Module):
    """Rows `weight_v` scaled to the lengths `weight_g`; the parameter names of the published checkpoints."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_features, 1))
        self.weight_v = nn.Parameter(nn.Linear(in_features, out_features, bias=False).weight.detach())

    @property
    def weight(self) -> Tensor:
        return torch._weight_norm(self.weight_v, self.weight_g, 0)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


class ProjectionHead(NotScripted, nn.Module):
    """A perceptron to a narrow bottleneck of unit length, and prototypes beside it (arXiv 2104.14294, appendix C).

    Args:
        in_dim: channels of the features.
        out_dim: prototypes K.
        hidden_dim: width of the two hidden layers.
        bottleneck_dim: D.
        batch_norm: normalise the hidden layers over the batch, in evaluation too: no running statistics are kept.
        norm_last_layer: keep the lengths `weight_g` of the prototypes at 1.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        batch_norm: bool = False,
        norm_last_layer: bool = False,
    ):
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out in ((in_dim, hidden_dim), (hidden_dim, hidden_dim)):
            layers += [Linear(width_in, width_out)]
            layers += [nn.BatchNorm1d(width_out, track_running_stats=False)] if batch_norm else []
            layers += [nn.GELU()]
        self.mlp = nn.Sequential(*layers, Linear(hidden_dim, bottleneck_dim))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.norm_last_layer = norm_last_layer
        self.last_layer = _WeightNormLinear(bottleneck_dim, out_dim)
        self.freeze_last_layer(False)

    @property
    def prototypes(self) -> Tensor:
        """[K, D], differentiable."""
        return self.last_layer.weight

    def freeze_last_layer(self, frozen: bool) -> None:
        """Stop or resume learning the prototypes: frozen ones receive no gradient, and none is computed."""
        self.last_layer.weight_v.requires_grad_(not frozen)
        self.last_layer.weight_g.requires_grad_(not frozen and not self.norm_last_layer)

    def bottleneck(self, x: Tensor) -> Tensor:
        """[R, in_dim] -> [R, D], rows of unit length, in float32 at least."""
        x = self.mlp(x)
        return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits: [R, in_dim] -> [R, K]."""
        return self.last_layer(self.bottleneck(x))
