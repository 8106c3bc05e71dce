"""Everyone who computes window attention: plain torch, its compiler, timm, FlexAttention, and this library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from benchmarks.measuring.timing import on_gpu
from esvit_fast import ops, reference
from esvit_fast.nn import WindowAttention
from esvit_fast.reference.window_attention import partition_windows


@dataclass(frozen=True)
class Case:
    """Window attention of one layer: a map [B, side, side, dim], and whether windows are shifted."""

    name: str
    side: int
    dim: int
    num_heads: int
    window_size: int

    @property
    def shift_size(self) -> int:
        """Half a window, where the map has more than one."""
        return self.window_size // 2 if self.side > self.window_size else 0


CASES = (
    Case("swin_t 224 stage 1", 56, 96, 3, 7),
    Case("swin_t 224 stage 2", 28, 192, 6, 7),
    Case("swin_t 224 stage 3", 14, 384, 12, 7),
    Case("swin_t 224 stage 4", 7, 768, 24, 7),
    Case("swin_b w14 224 stage 1", 56, 128, 4, 14),
    Case("swin_b w14 224 stage 2", 28, 256, 8, 14),
    Case("swin_b w14 224 stage 3", 14, 512, 16, 14),
    Case("swin_b w14 224 stage 4", 7, 1024, 32, 7),
    Case("swin_t 96 stage 1", 24, 96, 3, 7),
    Case("swin_t 96 stage 2", 12, 192, 6, 7),
    Case("swin_t 96 stage 3", 6, 384, 12, 7),
    Case("swin_t 96 stage 3, wide", 6, 768, 24, 7),
    Case("swin_t 96 stage 4", 3, 768, 24, 7),
)
NAMES = ("qkv.weight", "qkv.bias", "relative_position_bias_table", "proj.weight", "proj.bias")
Weights = dict[str, Tensor]
Operator = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A function of qkv, the table of biases, and the key and value of padded positions."""


@dataclass(frozen=True)
class Contestant:
    """One way to compute a layer.

    Attributes:
        make: case and weights to a function of x, whose parameters are these weights.
        pad_mode: which of the two functions that go by the name of window attention it computes.
        refuse: why it cannot take part, or None.
    """

    make: Callable[[Case, Weights], Callable[[Tensor], Tensor]]
    pad_mode: str = "before_roll"
    refuse: Callable[[Case, str, torch.dtype], str | None] = lambda case, device, dtype: None


def eager(
    case: Case, weights: Weights, pad_mode: str = "before_roll", linear: Callable = F.linear
) -> Callable[[Tensor], Tensor]:
    """The oracle under torch's autograd, with torch's linear layers or ours."""
    qkv, qkv_bias, table, proj, proj_bias = (weights[name] for name in NAMES)
    size, shift = (case.window_size,) * 2, (case.shift_size,) * 2
    options = {"num_heads": case.num_heads, "window_size": size, "shift_size": shift, "mask_value": -100.0}

    def run(x: Tensor) -> Tensor:
        scale = (case.dim // case.num_heads) ** -0.5
        packed = linear(x, qkv, qkv_bias)
        pads = qkv_bias[case.dim :]
        out = reference.window_attention(packed, table, pads, pad_mode=pad_mode, scale=scale, **options)
        return linear(out, proj, proj_bias)

    return run


def _load(module: nn.Module, weights: Weights) -> nn.Module:
    """The module with these very tensors as its parameters."""
    for name, value in weights.items():
        owner, _, leaf = name.rpartition(".")
        module.get_submodule(owner)._parameters[leaf] = value
    return module


def _timm(fused: bool) -> Callable[[Case, Weights], Callable[[Tensor], Tensor]]:
    def make(case: Case, weights: Weights) -> Callable[[Tensor], Tensor]:
        side = (case.side, case.side)
        block = SwinTransformerBlock(
            case.dim,
            side,
            num_heads=case.num_heads,
            window_size=case.window_size,
            shift_size=case.shift_size,
            always_partition=True,
        ).to(weights["qkv.weight"])
        block.attn.fused_attn = fused
        _load(block.attn, weights)
        return block._attn

    return make


def _ours(backend: str) -> Callable[[Case, Weights], Callable[[Tensor], Tensor]]:
    def make(case: Case, weights: Weights) -> Callable[[Tensor], Tensor]:
        module = _load(WindowAttention(case.dim, case.num_heads, case.window_size, case.shift_size), weights)

        def run(x: Tensor) -> Tensor:
            with ops.backend(backend):
                return module(x)

        return run

    return make


def _compiled(case: Case, weights: Weights) -> Callable[[Tensor], Tensor]:
    # what was compiled for other cases would make sizes dynamic, and at last give up compiling
    torch._dynamo.reset()
    return torch.compile(eager(case, weights), dynamic=False)


def regions(side: int, window_size: int, shift_size: int, device: str | torch.device) -> Tensor:
    """The region [windows, N] of each token of a shifted map: those of one window that differ are no neighbours."""
    padded = side + -side % window_size
    far = torch.arange(padded, device=device) >= padded - shift_size
    places = (2 * far[:, None].long() + far).view(1, padded, padded, 1)
    return partition_windows(places, (window_size, window_size), (0, 0), "before_roll").view(-1, window_size**2)


def windows(qkv: Tensor, pads: Tensor, num_heads: int, window_size: int, shift_size: int) -> list[Tensor]:
    """Query, key and value [windows, heads, N, head_dim] of a padded and shifted square map."""
    batch, height, width, channels = qkv.shape
    beyond = -height % window_size
    if beyond:
        padding = torch.cat([pads.new_zeros(channels - len(pads)), pads]).to(qkv.dtype)
        right = padding.expand(batch, height, beyond, -1)
        below = padding.expand(batch, beyond, width + beyond, -1)
        qkv = torch.cat([torch.cat([qkv, right], 2), below], 1)
    cut = partition_windows(qkv, (window_size,) * 2, (shift_size,) * 2, "before_roll").flatten(0, 1)
    return list(cut.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind())


def merged(out: Tensor, shape: Sequence[int], window_size: int, shift_size: int) -> Tensor:
    """Undo `windows`: [windows, heads, N, head_dim] -> a map of `shape` [B, H, W, …]."""
    out = out.transpose(1, 2).flatten(2).unflatten(0, (shape[0], -1))
    return reference.merge_windows(out, tuple(shape[1:3]), (window_size,) * 2, (shift_size,) * 2, "before_roll")


def flex(case: Case, device: str | torch.device) -> Operator:
    """The operator by FlexAttention, compiled."""
    from torch.nn.attention.flex_attention import flex_attention

    torch._dynamo.reset()
    attend, geometry = torch.compile(flex_attention, dynamic=False), (case.window_size, case.shift_size)
    region = regions(case.side, *geometry, device)

    def run(qkv: Tensor, table: Tensor, pads: Tensor) -> Tensor:
        bias = reference.dense_bias(table, (case.window_size,) * 2)

        def score_mod(score, b, h, i, j):
            window = b % len(region)
            return score + bias[h, i, j] + torch.where(region[window, i] == region[window, j], 0.0, -100.0)

        parts = (x.contiguous() for x in windows(qkv, pads, case.num_heads, *geometry))
        return merged(attend(*parts, score_mod=score_mod), qkv.shape, *geometry)

    return run


def _flex_layer(case: Case, weights: Weights) -> Callable[[Tensor], Tensor]:
    qkv, qkv_bias, table, proj, proj_bias = (weights[name] for name in NAMES)
    attend = flex(case, table.device)
    return lambda x: F.linear(attend(F.linear(x, qkv, qkv_bias), table, qkv_bias[case.dim :]), proj, proj_bias)


def needs(backend: str) -> Callable[[Case, str, torch.dtype], str | None]:
    """Says why a backend cannot run a case, or None."""

    def refuse(case: Case, device: str, dtype: torch.dtype) -> str | None:
        facts = ops.Facts(
            torch.device(device).type,
            dtype,
            {"qkv": (1, case.side, case.side, 3 * case.dim), "pad_kv": (2 * case.dim,)},
            {
                "num_heads": case.num_heads,
                "window_size": (case.window_size,) * 2,
                "shift_size": (case.shift_size,) * 2,
                "pad_mode": "before_roll",
            },
            torch.cuda.get_device_capability(device) if on_gpu(device) else None,
            forced=backend,
        )
        try:
            ops.plan("window_attention", facts)
        except ops.BackendError as error:
            return str(error)
        return None

    return refuse


CONTESTANTS = {
    "torch eager": Contestant(eager),
    "eager, our linear": Contestant(
        lambda case, weights: eager(case, weights, linear=ops.linear),
        refuse=lambda case, device, dtype: None if (device, dtype) == ("cpu", torch.float32) else "it is torch's there",
    ),
    "torch.compile": Contestant(_compiled),
    "flex attention": Contestant(
        _flex_layer, refuse=lambda case, device, dtype: None if on_gpu(device) else "it has no backward pass on a CPU"
    ),
    "timm": Contestant(_timm(False), "after_roll"),
    "timm fused": Contestant(_timm(True), "after_roll"),
    "esvit_fast cpu": Contestant(_ours("cpu"), refuse=needs("cpu")),
    "esvit_fast triton": Contestant(_ours("triton"), refuse=needs("triton")),
    "esvit_fast cuda": Contestant(_ours("cuda"), refuse=needs("cuda")),
}
"""The first is what the gate measures all others by."""
