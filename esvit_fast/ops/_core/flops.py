"""Arithmetic of the operators' matrix products from shapes alone, two for a multiplication and an addition."""

from __future__ import annotations

import math

from torch._ops import OpOverloadPacket
from torch.utils.flop_counter import register_flop_formula

from ..window_attention.windows import cut_axis


def _window_attention(products: int, qkv, window_size, shift_size, pad_mode: str) -> int:
    """Every token meets the tokens of its window: a product of two maps has a square of its tokens for each."""
    batch, height, width, channels = qkv.shape
    pairs = math.prod(
        sum(len(source) ** 2 for source in cut_axis(*each, pad_mode).source)
        for each in zip((height, width), window_size, shift_size, strict=True)
    )
    return 2 * products * batch * pairs * channels // 3


def _linear(products: int, x, weight) -> int:
    return 2 * products * math.prod(x.shape[:-1]) * math.prod(weight.shape)


def _prototype_cross_entropy(student, weight, weight_g, teacher, *rest) -> int:
    """Scores and means of prototypes by all rows; the prototypes' gradient is a third product."""
    needs = rest[-1]
    teachers, students = 2 + any(needs[1:]), 1 + needs[0] + any(needs[1:])
    return 2 * math.prod(weight.shape) * (teachers * len(teacher) + students * len(student))


FLOPS = {
    "window_attention": lambda qkv, *rest: _window_attention(2, qkv, *rest[4:7]),
    # scores are computed again
    "window_attention_backward": lambda grad, qkv, *rest: _window_attention(5, qkv, *rest[4:7]),
    "linear": lambda x, weight, bias: _linear(1, x, weight),
    "linear_backward": lambda grad, x, weight, mask: (
        2 * sum(mask[:2]) * grad.numel() * (x if weight is None else weight).shape[-1]
    ),
    "region_match": lambda student, teacher, match_dtype: 2 * student.numel() * math.prod(teacher.shape[1:-1]),
    "prototype_cross_entropy": _prototype_cross_entropy,
}
"""By name, functions of an operator's arguments but for its backend; who is not here multiplies no matrices."""


def register_flops(name: str, operator: OpOverloadPacket) -> None:
    """Let `torch.utils.flop_counter` count an operator, if it multiplies matrices."""
    if count := FLOPS.get(name):
        register_flop_formula(operator, get_raw=True)(lambda *args, out_val=None: count(*args[:-1]))
