"""Window attention alone, without the layers around it: time of both passes, beside the least bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring.contest import Passes, contest
from benchmarks.measuring.exactness import error_ratio
from benchmarks.measuring.gpu import on_gpu
from benchmarks.measuring.planned import backend_refusal
from benchmarks.measuring.records import record
from benchmarks.measuring.words import operator_table
from benchmarks.registry import CASE, Benchmark, case_problems, register
from esvit_fast import ops, reference
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

    @property
    def options(self) -> dict[str, object]:
        """Heads and windows, as the operator takes them."""
        size, shift = (self.window_size,) * 2, (self.shift_size,) * 2
        return {"num_heads": self.num_heads, "window_size": size, "shift_size": shift}


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
Operator = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A function of qkv, the table of biases, and the key and value of padded positions."""
Refusal = Callable[[Case, str, torch.dtype], str | None]
"""Why someone cannot take part in a case on a device in a dtype, or None."""


@dataclass(frozen=True)
class Contestant:
    """One way to compute the operator: how it is made, and why it cannot take part."""

    make: Callable[[Case, str], Operator]
    refuse: Refusal = lambda case, device, dtype: None


def oracle(case: Case, device: str) -> Operator:
    """The oracle under torch's autograd."""
    options = case.options | {"pad_mode": "before_roll", "mask_value": -100.0}
    scale = (case.dim // case.num_heads) ** -0.5
    return lambda qkv, table, pads: reference.window_attention(qkv, table, pads, scale=scale, **options)


def _compiled(case: Case, device: str) -> Operator:
    # what was compiled for other cases would make sizes dynamic, and at last give up compiling
    torch._dynamo.reset()
    return torch.compile(oracle(case, device), dynamic=False)


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


def flex_refusal(case: Case, device: str, dtype: torch.dtype) -> str | None:
    """Why FlexAttention cannot take part, or None."""
    return None if on_gpu(device) else "it has no backward pass on a CPU"


def sdpa(
    qkv: Tensor,
    bias: Tensor,
    *,
    num_heads: int,
    window_size: int,
    shift_size: int,
    pad_kv: Tensor,
    region: Tensor | None = None,
) -> Tensor:
    """Window attention by torch's fused one, as timm calls it: windows in memory, biases and masks as one tensor."""
    if region is None and shift_size:
        region = regions(qkv.shape[1], window_size, shift_size, qkv.device)
    parts = windows(qkv, pad_kv, num_heads, window_size, shift_size)
    dense = reference.dense_bias(bias, (window_size, window_size)).to(qkv.dtype)[None]
    if shift_size:
        apart = (region[:, None] != region[:, :, None]) * -100.0
        dense = (dense + apart[:, None].to(dense)).repeat(len(qkv), 1, 1, 1)
    return merged(F.scaled_dot_product_attention(*parts, attn_mask=dense), qkv.shape, window_size, shift_size)


def _sdpa(case: Case, device: str) -> Operator:
    options = {"num_heads": case.num_heads, "window_size": case.window_size, "shift_size": case.shift_size}
    region = regions(case.side, case.window_size, case.shift_size, device)
    return lambda qkv, table, pads: sdpa(qkv, table, pad_kv=pads, region=region, **options)


def _ours(backend: str) -> Callable[[Case, str], Operator]:
    def make(case: Case, device: str) -> Operator:
        options = case.options | {"backend": backend}
        return lambda qkv, table, pads: ops.window_attention(qkv, table, pad_kv=pads, **options)

    return make


def needs(backend: str) -> Refusal:
    """Says why a backend cannot run a case, or None."""

    def refuse(case: Case, device: str, dtype: torch.dtype) -> str | None:
        shapes = {"qkv": (1, case.side, case.side, 3 * case.dim), "pad_kv": (2 * case.dim,)}
        options = case.options | {"pad_mode": "before_roll"}
        return backend_refusal("window_attention", backend, device, dtype, shapes, options)

    return refuse


MODES = ("forward", "backward")
CONTESTANTS = {
    "torch eager": Contestant(oracle),
    "torch.compile": Contestant(_compiled),
    "sdpa": Contestant(_sdpa),
    "flex attention": Contestant(flex, flex_refusal),
    **{f"esvit_fast {b}": Contestant(_ours(b), needs(b)) for b in ("cpu", "triton", "cuda")},
}
"""The first is what the gate measures all others by."""


def inputs(case: Case, batch: int, dtype: torch.dtype, device: str) -> tuple[list[Tensor], Tensor]:
    """qkv, table and pads, and the gradient of the output, the same for everyone."""
    g = torch.Generator().manual_seed(0)
    shapes = (batch, case.side, case.side, 3 * case.dim), ((2 * case.window_size - 1) ** 2, case.num_heads)
    tensors = [torch.randn(*shape, generator=g).to(device, dtype) for shape in (*shapes, (2 * case.dim,))]
    grad = torch.randn(batch, case.side, case.side, case.dim, generator=g).to(device, dtype)
    return [x.requires_grad_() for x in tensors], grad


def results(run: Operator, tensors: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    """Output and all gradients; none where a map has no padding."""
    out = run(*tensors)
    grads = torch.autograd.grad(out, list(tensors), grad, allow_unused=True)
    return [out.detach(), *(torch.zeros_like(x) if g is None else g for x, g in zip(tensors, grads, strict=True))]


def gate(case: Case, contestant: Contestant, dtype: torch.dtype, device: str) -> float:
    """Errors against float64, in units of what is allowed. Two images are enough."""
    given, plain = inputs(case, 2, dtype, device), oracle(case, device)
    found = results(contestant.make(case, device), *given)
    return error_ratio(found, lambda drawn: results(plain, *drawn), given)


def least(case: Case, batch: int, dtype: torch.dtype) -> dict[str, dict[str, int]]:
    """What any implementation moves and multiplies: qkv read, output written; backward both again, and gradients."""
    tokens, item = batch * case.side**2, dtype.itemsize
    products = tokens * min(case.window_size, case.side) ** 2 * case.dim
    return {
        "forward": {"bytes": 4 * tokens * case.dim * item, "flop": 4 * products},
        "backward": {"bytes": 7 * tokens * case.dim * item, "flop": 10 * products},
    }


def measure(case: Case, names: Sequence[str], batch: int, dtype: torch.dtype, device: str, rounds: int) -> dict:
    """A record of one case; of a GPU's times, launches are no part."""
    tensors, grad = inputs(case, batch, dtype, device)

    def passes(name: str) -> Passes:
        run = CONTESTANTS[name].make(case, device)
        forward = partial(run, *tensors)
        backward = partial(torch.autograd.grad, inputs=tensors, grad_outputs=grad, allow_unused=True)
        timed = {"forward": forward, "backward": backward}
        return Passes(timed, {"backward": forward}, whole=partial(results, run, tensors, grad))

    rows = contest(
        names,
        refusal=lambda name: CONTESTANTS[name].refuse(case, device, dtype),
        gate=lambda name: gate(case, CONTESTANTS[name], dtype, device),
        passes=passes,
        device=device,
        rounds=rounds,
        hidden=True,
    )
    return record(identity(case, batch, dtype), rows, rounds, device, least=least(case, batch, dtype))


def identity(case: Case, batch: int, dtype: torch.dtype) -> dict:
    """What tells a record from those of other cases."""
    shape = {"batch": batch, "side": case.side, "dim": case.dim, "heads": case.num_heads, "window": case.window_size}
    shape |= {"shift": case.shift_size}
    return {"op": "window_attention", "case": case.name, "shape": shape, "dtype": str(dtype)}


def table(record: dict) -> str:
    """A record for people to read."""
    title = f"{record['case']}, the operator alone: {record['shape']['batch']} images, {record['dtype']}"
    return operator_table(title, record, MODES)


def smallest(device: str, backend: str, dtype: torch.dtype) -> Iterator[Callable[[], object]]:
    """Windows of one block, with and without pads, and of several blocks; both passes."""
    for side, window, shift in ((8, 4, 2), (7, 7, 0), (3, 7, 0), (10, 9, 4)):
        qkv = torch.randn(1, side, side, 3 * 32, device=device, dtype=dtype, requires_grad=True)
        bias = torch.randn((2 * window - 1) ** 2, 1, device=device, requires_grad=True)
        pad_kv = torch.randn(2 * 32, device=device, dtype=dtype, requires_grad=True)
        call = {"num_heads": 1, "window_size": window, "shift_size": shift, "pad_kv": pad_kv, "backend": backend}
        yield lambda given=(qkv, bias), call=call: ops.window_attention(*given, **call).float().sum().backward()


register(
    Benchmark(
        "window_attention",
        "Window attention, the operator alone",
        __doc__,
        case_problems({case.name: case for case in CASES}, identity, measure),
        table,
        modes=MODES,
        contestants=tuple(CONTESTANTS),
        arguments={"--case": CASE},
        quick={"batch": 1, "case": "swin_t 96 stage 4", "contestants": ["torch eager", "sdpa", "esvit_fast cpu"]},
        smallest=smallest,
        records="kernels",
        row_per_case=True,
    )
)
