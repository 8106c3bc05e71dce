"""Which backends the operators of a patched model will really run on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ... import ops
from ...ops._core.plan import facts_here
from ..window_attention import WindowAttention
from .report import Runs


@dataclass(frozen=True)
class Call:
    """What a backend for window attention is chosen by, beside device and dtype.

    Attributes:
        shapes: of the tensors, by argument name.
        options: the other arguments, by name.
    """

    shapes: Mapping[str, tuple[int, ...]]
    options: Mapping[str, object]


class Calls(TorchDispatchMode):
    """Notes the calls of window attention within a `with` block."""

    def __init__(self):
        super().__init__()
        self.seen: list[Call] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run what is called."""
        if func is torch.ops.esvit_fast.window_attention.default:
            named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=True))
            shapes = {name: tuple(value.shape) for name, value in named.items() if isinstance(value, Tensor)}
            options = {name: named[name] for name in ("num_heads", "window_size", "shift_size", "pad_mode")}
            self.seen.append(Call(shapes, options))
        return func(*args, **(kwargs or {}))


def call_of(module: WindowAttention) -> Call:
    """That of a module of our own, for a map of one window."""
    side, shift, channels = module.window_size, module.shift_size, module.qkv.out_features
    shapes = {"qkv": (1, side, side, channels), "pad_kv": (2 * channels // 3,)}
    options = {"num_heads": module.num_heads, "window_size": (side, side), "shift_size": (shift, shift)}
    return Call(shapes, {**options, "pad_mode": "before_roll"})


def attention(calls: Iterable[tuple[nn.Module, Call]]) -> dict[nn.Module, Runs]:
    """What runs window attention for each module that makes such a call."""
    return {module: _runs("window_attention", _weight(module), call) for module, call in calls}


def linears(modules: Iterable[nn.Module]) -> dict[nn.Module, Runs]:
    """What runs each linear layer."""
    return {module: _runs_linear(module.weight) for module in modules}


def summed(runs: Iterable[Runs]) -> tuple[Runs, ...]:
    """One for all that are alike, with their number."""
    return tuple(Runs(each.op, each.backend, each.on, each.why, count) for each, count in Counter(runs).items())


def _runs_linear(weight: Tensor) -> Runs:
    if weight.device.type == "cpu" and weight.dtype == torch.float32:
        return _runs("linear", weight, Call({}, {}))
    return Runs("linear", "reference", _place(weight), "only float32 on a CPU has kernels, the rest stays torch's")


def _place(x: Tensor) -> str:
    return f"{x.device.type} in {str(x.dtype).removeprefix('torch.')}"


def _runs(op: str, like: Tensor, call: Call) -> Runs:
    facts, on = facts_here(like.device, like.dtype, call.shapes, call.options), _place(like)
    try:
        found = ops.plan(op, facts)
    except ops.BackendError as error:
        return Runs(op, "none", on, str(error))
    others = ("cuda", "triton") if like.device.type == "cpu" else ("cpu",)
    why = "; ".join(f"{name}: {reason}" for name, reason in found.refused.items() if name not in others)
    return Runs(op, found.backend, on, why)


def _weight(module: nn.Module) -> Tensor:
    return next(parameter for parameter in module.parameters() if parameter.is_floating_point())
