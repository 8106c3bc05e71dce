"""Seconds of a step on a GPU that is not here, from its arithmetic and the bytes that it moves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ...config import Config
from ...gpus import Gpu


class Work(NamedTuple):
    """Operators that do the same.

    Attributes:
        dtype: of what they multiply, such as "bfloat16"; "" where they multiply nothing.
        flops, bytes: of one: arithmetic of matrix products, and what it reads and writes.
        update: whether they move weights, once a step, and not once a micro-batch.
        count: how many there are.
    """

    dtype: str
    flops: int
    bytes: int
    update: bool
    count: int


PRODUCTS, MEMORY, LAUNCH, CONTEXT = 0.5, 0.75, 10e-6, 2**29
"""What is assumed: the share of a data sheet's rate that matrix products of these sizes reach, that of its bandwidth
which other operators reach, seconds that the host takes for an operator, and bytes of a process's context on the GPU.

A large product reaches 0.8 and a large copy 0.9 of what is published for an H200; layers of these sizes are smaller,
and their tiles are not full."""
ASSUMED = (
    f"products at {PRODUCTS:.0%} and memory at {MEMORY:.0%} of the data sheet's rates, {LAUNCH * 1e6:.0f} us of the "
    "host for an operator, this library's kernels (ESVIT_FAST_UNPROVEN=1 where none is proven; plain torch takes "
    "longer and holds more), communication between GPUs not counted"
)


def rate(gpu: Gpu, dtype: str, fast: bool) -> float:
    """FLOP per second of products of a dtype; `fast` lets float32 be rounded to TF32, at half the rate of bf16."""
    if dtype == "float16" or (dtype == "bfloat16" and gpu.capability >= (8, 0)):
        return gpu.half
    return gpu.half / 2 if fast and gpu.capability >= (8, 0) else gpu.single


def seconds(work: Iterable[Work], gpu: Gpu, config: Config, micro_batches: int, traced: int) -> float:
    """Of a step: each operator takes what its arithmetic or its bytes take, and the host must launch it.

    Args:
        micro_batches: of a step of one GPU.
        traced: micro-batches in `work`.
    """
    fast = config.train.matmul == "fast"
    busy, launched = {True: 0.0, False: 0.0}, {True: 0.0, False: 0.0}
    for each in work:
        products = each.flops / (PRODUCTS * rate(gpu, each.dtype, fast)) if each.flops else 0.0
        busy[each.update] += each.count * max(products, each.bytes / (MEMORY * gpu.bandwidth))
        launched[each.update] += each.count * (0.0 if config.train.cuda_graph else LAUNCH)
    return sum(
        max(busy[update], launched[update]) * (1 if update else micro_batches / traced) for update in (True, False)
    )
