"""Window attention as a module: the two projections and the relative position bias around the operator."""

from __future__ import annotations

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from .. import ops, reference
from ..ops._core.plan import exported, transformed
from .linear import Linear
from .not_scripted import NotScripted


class WindowAttention(NotScripted, nn.Module):
    """Shifted-window multi-head self-attention on a map of any size (Swin, arXiv 2103.14030, section 3.2).

    Parameters are named as in Swin and EsViT: `relative_position_bias_table`, `qkv`, `proj`.

    Args:
        dim: channels C.
        num_heads: divides dim.
        window_size: side of a window in tokens.
        shift_size: cyclic shift in tokens, smaller than window_size.
        qkv_bias: whether the projection to query, key and value has a bias, which is also what padded tokens hold.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int, shift_size: int = 0, qkv_bias: bool = True):
        super().__init__()
        self.num_heads, self.window_size, self.shift_size = num_heads, window_size, shift_size
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)
        trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        qkv, table = self.qkv(x), self.relative_position_bias_table
        return self.proj(_attend(qkv, table, self._pad_kv(), **self._options()))

    def received(self, x: Tensor) -> Tensor:
        """Attention that each token of [B, H, W, C] receives from its window, per head: float32 [B, heads, H, W]."""
        options = self._options()
        weights, _ = reference.window_attention_weights(
            self.qkv(x), self.relative_position_bias_table, self._pad_kv(), **options
        )
        received = weights.float().mean(-2).transpose(2, 3)  # [B, windows, N, heads]
        where = (options[name] for name in ("window_size", "shift_size", "pad_mode"))
        return reference.merge_windows(received, x.shape[1:3], *where).permute(0, 3, 1, 2)

    def _options(self) -> dict:
        return {
            "num_heads": self.num_heads,
            "window_size": (self.window_size,) * 2,
            "shift_size": (self.shift_size,) * 2,
            "pad_mode": "before_roll",
            "mask_value": -100.0,
            "scale": (self.proj.in_features // self.num_heads) ** -0.5,
        }

    def _pad_kv(self) -> Tensor:
        dim = self.proj.in_features
        return self.qkv.weight.new_zeros(2 * dim) if self.qkv.bias is None else self.qkv.bias[dim:]


@torch.fx.wrap  # traced symbolically, it is a call of its own
def _attend(qkv: Tensor, bias: Tensor, pad_kv: Tensor, **options) -> Tensor:
    """The operator, or its oracle: in what is exported, and for derivatives that only torch knows.

    The oracle's graph is for one size of map; where torch.export is asked for any, the operator stays in it.
    """
    any_size = any(isinstance(side, torch.SymInt) for side in qkv.shape[1:3])
    if transformed() or (exported() and not any_size):
        return reference.window_attention(qkv, bias, pad_kv, **options)
    return ops.window_attention(qkv, bias, pad_kv=pad_kv, **options)
