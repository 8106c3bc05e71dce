"""The block of a Swin transformer."""

from __future__ import annotations

from torch import Tensor, nn

from .drop_path import DropPath
from .linear import Linear
from .not_scripted import NotScripted
from .recompute import through
from .window_attention import WindowAttention


class Mlp(NotScripted, nn.Module):
    """Two linear layers, and GELU between them."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1, self.act, self.fc2 = Linear(dim, hidden_dim), nn.GELU(), Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., dim]."""
        return through(self.act, self.fc1(x), self.fc2)


class SwinBlock(NotScripted, nn.Module):
    """Window attention and a two-layer perceptron, each after a LayerNorm (eps 1e-6) and with a residual connection.

    What norms and GELU give is not kept for the backward pass, which computes it again.

    Args:
        dim: channels C.
        num_heads: divides dim.
        window_size: side of a window in tokens.
        shift_size: cyclic shift in tokens.
        mlp_ratio: hidden width of the perceptron in units of dim.
        drop_path: probability that a sample skips a branch while training.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        shift_size: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = WindowAttention(dim, num_heads, window_size, shift_size, qkv_bias)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        x = x + self.drop_path(through(self.norm1, x, self.attn))
        return x + self.drop_path(through(self.norm2, x, self.mlp))
