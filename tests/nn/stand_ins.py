"""Blocks as Microsoft's Swin, Swin v2 and Swin for detection and EsViT publish them: attributes, calls and results.

Written from their description; the attention is plain indexing of rolled maps, unlike the operator's oracle.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor, nn


def relative_index(window: int) -> Tensor:
    """[N, N]: row of the bias table for each pair of positions."""
    place = torch.arange(window * window)
    y, x = place // window, place % window
    return (y[:, None] - y + window - 1) * (2 * window - 1) + x[:, None] - x + window - 1


def windows(image: Tensor, window: int) -> Tensor:
    """[B, H, W, C] -> [B * windows, N, C]."""
    batch, height, width, channels = image.shape
    cut = image.reshape(batch, height // window, window, width // window, window, channels)
    return cut.transpose(2, 3).reshape(-1, window * window, channels)


def shift_mask(size: tuple[int, int], window: int, shift: int) -> Tensor:
    """[windows, N, N]: -100 between regions, painted one after the other."""
    painted = torch.zeros(1, *size, 1)
    bands = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for number, (rows, columns) in enumerate((r, c) for r in bands for c in bands):
        painted[:, rows, columns] = number
    cut = windows(painted, window)
    return (cut != cut.transpose(1, 2)).float() * -100


class Attention(nn.Module):
    """Attention in windows [B * windows, N, C]; `cosine`: that of v2. `both`: returns the weights, too."""

    def __init__(self, dim, window, heads, cosine=False, both=False, qkv_bias=True, drop=0.0):
        super().__init__()
        self.window_size, self.num_heads, self.scale, self.both = (window, window), heads, (dim // heads) ** -0.5, both
        self.register_buffer("relative_position_index", relative_index(window))
        self.q_bias = self.v_bias = None
        if cosine:
            self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10)))
            self.cpb_mlp = nn.Sequential(nn.Linear(2, 32), nn.ReLU(inplace=True), nn.Linear(32, heads, bias=False))
            steps = torch.arange(1 - window, window) * 8 / max(window - 1, 1)
            steps = steps.sign() * torch.log2(steps.abs() + 1) / 3
            table = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1)[None]
            self.register_buffer("relative_coords_table", table)
            if qkv_bias:
                self.q_bias, self.v_bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        else:
            self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias and not cosine)
        self.attn_drop, self.proj, self.proj_drop = nn.Dropout(drop), nn.Linear(dim, dim), nn.Dropout(0.0)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x, mask=None):
        count, length, dim = x.shape
        bias = self.qkv.bias
        if self.q_bias is not None:
            bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        q, k, v = (
            F.linear(x, self.qkv.weight, bias).reshape(count, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        )
        if hasattr(self, "logit_scale"):
            scores = (
                F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.logit_scale.clamp(max=math.log(100)).exp()
            )
            table = 16 * self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads).sigmoid()
        else:
            scores, table = q * self.scale @ k.mT, self.relative_position_bias_table
        scores = scores + table[self.relative_position_index].permute(2, 0, 1)
        if mask is not None:
            scores = (scores.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
        weights = self.attn_drop(self.softmax(scores))
        x = self.proj_drop(self.proj((weights @ v).transpose(1, 2).reshape(count, length, dim)))
        return (x, weights) if self.both else x


class MicrosoftBlock(nn.Module):
    """[B, L, C] -> [B, L, C], for one size of map, a multiple of the window; `cosine`: v2, with norms after."""

    def __init__(self, dim, input_resolution, num_heads, window_size=7, shift_size=0, cosine=False, **options):
        super().__init__()
        self.input_resolution, self.window_size, self.shift_size = input_resolution, window_size, shift_size
        if min(input_resolution) <= window_size:
            self.window_size, self.shift_size = min(input_resolution), 0
        self.norm1, self.norm2, self.mlp = nn.LayerNorm(dim), nn.LayerNorm(dim), Mlp(dim, 2 * dim)
        self.attn = Attention(dim, self.window_size, num_heads, cosine, **options)
        self.drop_path = DropPath(0.1)
        mask = shift_mask(input_resolution, self.window_size, self.shift_size) if self.shift_size else None
        self.register_buffer("attn_mask", mask)

    def forward(self, x):
        assert x.shape[1] == self.input_resolution[0] * self.input_resolution[1], "input feature has wrong size"
        if hasattr(self.attn, "logit_scale"):
            x = x + self.drop_path(self.norm1(self.mixed(x, self.input_resolution, self.attn_mask)[0]))
            return x + self.drop_path(self.norm2(self.mlp(x)))
        x = x + self.drop_path(self.mixed(self.norm1(x), self.input_resolution, self.attn_mask)[0])
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def mixed(self, x, size, mask):
        """Pad, shift, cut, attend, and back; and the attention weights, if the attention returns them."""
        window, shift = self.window_size, self.shift_size
        image = F.pad(x.unflatten(1, size), (0, 0, 0, -size[1] % window, 0, -size[0] % window))
        padded = image.shape[1:3]
        cut = windows(image.roll((-shift, -shift), (1, 2)), window)
        y, weights = self.attn(cut, mask) if self.attn.both else (self.attn(cut, mask), None)
        y = y.view(len(x), padded[0] // window, padded[1] // window, window, window, -1)
        y = y.transpose(2, 3).reshape(len(x), *padded, -1).roll((shift, shift), (1, 2))
        return y[:, : size[0], : size[1]].flatten(1, 2), weights


class DetectionBlock(MicrosoftBlock):
    """For any size of map, which the stage sets as H and W before it passes on its mask for shifted blocks."""

    def forward(self, x, mask_matrix):
        mask = mask_matrix if self.shift_size else None
        x = x + self.drop_path(self.mixed(self.norm1(x), (self.H, self.W), mask)[0])
        return x + self.drop_path(self.mlp(self.norm2(x)))


class EsViTBlock(MicrosoftBlock):
    """For any square map; returns the attention weights as well."""

    def __init__(self, *args, **options):
        super().__init__(*args, both=True, **options)

    def forward(self, x):
        side = math.isqrt(x.shape[1])
        padded = side + -side % self.window_size
        mask = shift_mask((padded, padded), self.window_size, self.shift_size) if self.shift_size else None
        y, weights = self.mixed(self.norm1(x), (side, side), None if mask is None else mask.to(x.dtype))
        x = x + self.drop_path(y)
        return x + self.drop_path(self.mlp(self.norm2(x))), weights


class Model(nn.Module):
    """Blocks one after the other on an image's pixels; passes on what they return, as the published stages do."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, image: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, H * W, C]."""
        x, size = image.flatten(2).transpose(1, 2), image.shape[2:]
        for block in self.blocks:
            if isinstance(block, DetectionBlock):
                block.H, block.W = size
                sides = tuple(side + -side % block.window_size for side in size)
                x = block(x, shift_mask(sides, block.window_size, block.window_size // 2).to(x.dtype))
            elif isinstance(block, EsViTBlock):
                x, _ = block(x)
            else:
                x = block(x)
        return x


def esvit(dim=16, side=14, window=7, heads=2, **options) -> Model:
    """Two blocks, the second shifted."""
    return Model([EsViTBlock(dim, (side, side), heads, window, shift, **options) for shift in (0, window // 2)])


def microsoft(dim=16, size=(14, 21), window=7, heads=2, block=MicrosoftBlock, **options) -> Model:
    """Two blocks, the second shifted."""
    return Model([block(dim, size, heads, window, shift, **options) for shift in (0, window // 2)])
