"""Window attention in Triton: tiles made in torch, then kernels, whose sums are added in a fixed order."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from .._library import linearize
from .._plan import Facts
from .._windows import cut_axis, layout, tiles
from ._device import refuse_device
from ._shares import cut, shares


def refuse(facts: Facts) -> str | None:
    """Why the kernels cannot run, or None."""
    reason = refuse_device(facts)
    if reason is not None or "qkv" not in facts.shapes:
        return reason
    from ...kernels._tables import LARGEST_HEAD, LARGEST_WINDOW

    tokens, keys, head_dim = _extent(facts)
    if head_dim > LARGEST_HEAD:
        return f"head_dim={head_dim} is more than {LARGEST_HEAD}"
    if max(tokens, keys) > LARGEST_WINDOW:
        return f"windows of {max(tokens, keys)} tokens are larger than {LARGEST_WINDOW}"
    return None


def configure(facts: Facts) -> Mapping[str, int]:
    """The launch configuration of both passes, for facts that are not refused; nothing where shapes are not known."""
    from ...kernels import _tables

    if "qkv" not in facts.shapes:
        return {}
    cosine = "cosine_scale" in facts.shapes
    return _tables.window_attention(facts.capability, facts.dtype.itemsize, *_extent(facts), cosine)


def _extent(facts: Facts) -> tuple[int, int, int]:
    """Most tokens of a window, most keys with the virtual one, and head_dim."""
    options, (_, height, width, channels) = facts.options, facts.shapes["qkv"]
    window_size = tuple(options["window_size"])
    counts = _counts((height, width), window_size, tuple(options["shift_size"]), options["pad_mode"])
    whole = window_size[0] * window_size[1]
    virtual = "pad_kv" in facts.shapes
    return max(counts), max(n + (virtual and n < whole) for n in counts), channels // 3 // options["num_heads"]


@lru_cache(maxsize=512)
def _counts(size, window_size, shift_size, pad_mode) -> tuple[int, ...]:
    """The tokens of a window, for each class."""
    y, x = (cut_axis(*each, pad_mode).kinds for each in zip(size, window_size, shift_size, strict=True))
    return tuple(len(a.tokens) * len(b.tokens) for a in y for b in x)


def forward(qkv, bias, pad_kv, cosine_scale, **options) -> Tensor:
    """The output; arguments as `esvit_fast.ops.window_attention`."""
    from ...kernels.window_attention_fwd import window_attention_fwd, window_attention_fwd_blocks

    call = _Call(qkv, bias, pad_kv, cosine_scale, options)
    out = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
    if call.blocks == 1:
        call.launch(window_attention_fwd, out=out, num_warps=call.warps[0])
    else:
        call.launch(window_attention_fwd_blocks, call.blocks, out=out, BLOCKS=call.blocks, num_warps=call.warps[0])
    return out


def backward(grad, qkv, bias, pad_kv, cosine_scale, **options) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of qkv, bias, pad_kv and cosine_scale; empty ones for what is None."""
    call = _Call(qkv, bias, pad_kv, cosine_scale, options)
    grad, dqkv = grad.contiguous(), torch.empty_like(call.qkv)
    dtiles, dpad_kv, dcosine = (_one_block if call.blocks == 1 else _several_blocks)(call, grad, dqkv)
    dtiles = torch.stack([of_class.sum(0) for of_class in dtiles.split(call.counts)])
    (dbias,) = call.back(dtiles)
    small = [
        bias.new_empty(0) if x is None else x.new_zeros(x.shape) if d is None else d.sum(0).to(x.dtype)
        for x, d in ((pad_kv, dpad_kv), (cosine_scale, dcosine))
    ]
    return dqkv, dbias.contiguous(), *small


def _one_block(call, grad, dqkv):
    from ...kernels.window_attention_bwd import window_attention_bwd

    dtiles, dpad_kv, dcosine = call.sums()
    sums = {"dtiles": dtiles, "dpad_kv": dpad_kv, "dcosine_scale": dcosine}
    call.launch(window_attention_bwd, grad=grad, dqkv=dqkv, **sums, REFINE=call.refine, num_warps=call.warps[1])
    return dtiles, dpad_kv, dcosine


def _several_blocks(call, grad, dqkv):
    from ...kernels import window_attention_bwd_blocks as kernels

    dtiles, dpad_kv, dcosine = call.sums(call.blocks)
    plane = call.rows * call.heads
    common = {
        "grad": grad,
        "statistics": call.qkv.new_empty((4, plane), dtype=torch.float32),
        "plane": plane,
        "BLOCKS": call.blocks,
        "num_warps": call.warps[1],
    }
    queries = {"dqkv": dqkv, "dcosine_scale": dcosine, "REFINE": call.refine}
    call.launch(kernels.window_attention_bwd_queries, call.blocks, **queries, **common)
    call.launch(kernels.window_attention_bwd_keys, call.blocks, dqkv=dqkv, dpad_kv=dpad_kv, **common)
    call.launch(kernels.window_attention_bwd_tiles, call.blocks**2, dtiles=dtiles, **common)
    return dtiles, *(None if x is None else x.flatten(0, 1) for x in (dpad_kv, dcosine))


class _Call:
    """What the kernels of one call are given: tensors on the device, sizes and the launch configuration."""

    def __init__(self, qkv, bias, pad_kv, cosine_scale, options):
        (batch, *size, channels), self.heads = qkv.shape, options["num_heads"]
        window_size = options["window_size"]
        geometry = tuple(size), window_size, options["shift_size"], options["pad_mode"], qkv.device
        where, windows = layout(*geometry), cut(*geometry)
        attended = pad_kv is not None

        def tiled(bias):
            return tiles(bias, where, window_size, options["mask_value"], attended, torch.float32)

        given = {"qkv": qkv, "pad_kv": pad_kv, "cosine_scale": cosine_scale}
        shapes = {name: tuple(x.shape) for name, x in given.items() if x is not None}
        capability = torch.cuda.get_device_capability(qkv.device) if qkv.device.type == "cuda" else None
        config = dict(configure(Facts(qkv.device.type, qkv.dtype, shapes, options, capability)))
        self.blocks = config.pop("blocks")
        self.warps = config.pop("num_warps"), config.pop("num_warps_backward")
        table, self.counts = shares(
            windows.classes, batch, config.pop("programs") // (self.heads * self.blocks), qkv.device
        )
        self.channels, self.rows, self.programs = channels // 3, batch * size[0] * size[1], len(table) * self.heads
        tile, self.back = linearize(tiled, (bias,))
        self.qkv = qkv.contiguous()
        virtual = attended and any(len(c.pads) for c in where.classes)
        # with few bits to round to, what refining gains is lost
        self.refine = virtual and qkv.dtype == torch.float32
        self.arguments = {
            "qkv": self.qkv,
            "tiles": tile,
            "pad_kv": pad_kv.to(qkv.dtype).contiguous() if virtual else None,
            "cosine_scale": None if cosine_scale is None else cosine_scale.to(torch.float32).contiguous(),
            "positions": windows.positions,
            "shares": table,
            "scale": options["scale"],
            "heads": self.heads,
            "channels": self.channels,
            "area": size[0] * size[1],
            "stride": windows.positions.shape[1],
            "tile_rows": tile.shape[2],
            "tile_columns": tile.shape[3],
            "HEAD_DIM": self.channels // self.heads,
            **{name.upper() if name.startswith("block") else name: value for name, value in config.items()},
        }

    def sums(self, *blocks: int) -> list[Tensor | None]:
        """What programs sum, float32: of tiles, of pad_kv and of cosine_scale, None where there is none."""
        given, shares = self.arguments, len(self.arguments["shares"])
        shapes = {
            "tiles": (shares, self.heads, *given["tiles"].shape[2:]),
            "pad_kv": (shares, *blocks, 2 * self.channels),
            "cosine_scale": (shares, *blocks, self.heads),
        }
        return [
            None if given[name] is None else self.qkv.new_empty(shape, dtype=torch.float32)
            for name, shape in shapes.items()
        ]

    def launch(self, kernel, blocks: int = 1, **arguments) -> None:
        """Run `kernel`, with so many programs for each head and share."""
        with torch.cuda.device_of(self.qkv):
            kernel[(self.programs * blocks,)](**self.arguments, **arguments)
