"""Window attention in Triton: tiles made in torch, then kernels, whose sums are added in a fixed order."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .._core.plan import Facts
from .._core.triton import constants, refuse_device
from .tables import Tables, extent, facts_of, gradient


def refuse(facts: Facts) -> str | None:
    """Why the kernels cannot run, or None."""
    reason = refuse_device(facts)
    if reason is not None or "qkv" not in facts.shapes:
        return reason
    from ...kernels._tables import LARGEST_HEAD, LARGEST_WINDOW

    tokens, keys, head_dim = extent(facts)
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
    return _tables.window_attention(facts.capability, facts.dtype.itemsize, *extent(facts), cosine)


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
    grad, dqkv = grad.contiguous(), torch.empty_like(call.arguments["qkv"])
    dtiles, dpad_kv, dcosine = (_one_block if call.blocks == 1 else _several_blocks)(call, grad, dqkv)
    small = (gradient(pad_kv, dpad_kv, bias), gradient(cosine_scale, dcosine, bias))
    return dqkv, call.tables.bias_gradient(dtiles), *small


def _one_block(call, grad, dqkv):
    from ...kernels.window_attention_bwd import window_attention_bwd

    dtiles, dpad_kv, dcosine = call.sums()
    sums = {"dtiles": dtiles, "dpad_kv": dpad_kv, "dcosine_scale": dcosine}
    call.launch(window_attention_bwd, grad=grad, dqkv=dqkv, **sums, REFINE=call.refine, num_warps=call.warps[1])
    return dtiles, dpad_kv, dcosine


def _several_blocks(call, grad, dqkv):
    from ...kernels import window_attention_bwd_blocks as kernels

    dtiles, dpad_kv, dcosine = call.sums(call.blocks)
    qkv, heads = call.arguments["qkv"], call.arguments["heads"]
    plane = qkv[..., 0].numel() * heads
    common = {
        "grad": grad,
        "statistics": qkv.new_empty((4, plane), dtype=torch.float32),
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
        config = dict(configure(facts_of(qkv, options, pad_kv=pad_kv, cosine_scale=cosine_scale)))
        self.blocks = config.pop("blocks")
        self.warps = config.pop("num_warps"), config.pop("num_warps_backward")
        self.tables = Tables(qkv, bias, pad_kv, options, config.pop("programs") // self.blocks)
        sizes, tensors = self.tables.sizes, self.tables.tensors
        # with few bits to round to, what refining gains is lost
        self.refine = tensors["pad_kv"] is not None and qkv.dtype == torch.float32
        self.arguments = {
            **tensors,
            "cosine_scale": None if cosine_scale is None else cosine_scale.to(torch.float32).contiguous(),
            "scale": options["scale"],
            **sizes,
            "HEAD_DIM": sizes["channels"] // sizes["heads"],
            **constants(config),
        }

    def sums(self, *blocks: int) -> list[Tensor | None]:
        """What programs sum, float32: of tiles, of pad_kv and of cosine_scale, None where there is none."""
        given, shares = self.arguments, len(self.arguments["shares"])
        shapes = {
            "tiles": (shares, *given["tiles"].shape[1:]),
            "pad_kv": (shares, *blocks, 2 * given["channels"]),
            "cosine_scale": (shares, *blocks, given["heads"]),
        }
        return [
            None if given[name] is None else given["qkv"].new_empty(shape, dtype=torch.float32)
            for name, shape in shapes.items()
        ]

    def launch(self, kernel, blocks: int = 1, **arguments) -> None:
        """Run `kernel`, with so many programs for each head and share."""
        programs = len(self.arguments["shares"]) * self.arguments["heads"] * blocks
        with torch.cuda.device_of(self.arguments["qkv"]):
            kernel[(programs,)](**self.arguments, **arguments)
