"""Window attention of a layer, projections included: time and memory of everyone who can compute it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from benchmarks.measuring.contest import Passes, contest
from benchmarks.measuring.exactness import error_ratio
from benchmarks.measuring.records import record
from benchmarks.measuring.words import mebibytes, ours, without_times
from benchmarks.operators.window_attention import CASES, Case, Refusal, flex, flex_refusal, identity, needs
from benchmarks.registry import CASE, Benchmark, case_problems, register
from esvit_fast import ops, reference
from esvit_fast.nn import WindowAttention

NAMES = ("qkv.weight", "qkv.bias", "relative_position_bias_table", "proj.weight", "proj.bias")
Weights = dict[str, Tensor]
Layer = Callable[[Tensor], Tensor]
Given = tuple[Tensor, Weights, Tensor]


@dataclass(frozen=True)
class Contestant:
    """One way to compute a layer.

    Attributes:
        make: case and weights to a function of x, whose parameters are these weights.
        pad_mode: which of the two functions that go by the name of window attention it computes.
        refuse: why it cannot take part, or None.
    """

    make: Callable[[Case, Weights], Layer]
    pad_mode: str = "before_roll"
    refuse: Refusal = lambda case, device, dtype: None


def eager(case: Case, weights: Weights, pad_mode: str = "before_roll", linear: Callable = F.linear) -> Layer:
    """The oracle under torch's autograd, with torch's linear layers or ours."""
    qkv, qkv_bias, table, proj, proj_bias = (weights[name] for name in NAMES)
    options = case.options | {"mask_value": -100.0}

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


def _timm(fused: bool) -> Callable[[Case, Weights], Layer]:
    def make(case: Case, weights: Weights) -> Layer:
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


def _ours(backend: str) -> Callable[[Case, Weights], Layer]:
    def make(case: Case, weights: Weights) -> Layer:
        module = _load(WindowAttention(case.dim, case.num_heads, case.window_size, case.shift_size), weights)

        def run(x: Tensor) -> Tensor:
            with ops.backend(backend):
                return module(x)

        return run

    return make


def _compiled(case: Case, weights: Weights) -> Layer:
    # what was compiled for other cases would make sizes dynamic, and at last give up compiling
    torch._dynamo.reset()
    return torch.compile(eager(case, weights), dynamic=False)


def flex_layer(case: Case, weights: Weights) -> Layer:
    """A layer by FlexAttention."""
    qkv, qkv_bias, table, proj, proj_bias = (weights[name] for name in NAMES)
    attend = flex(case, table.device)
    return lambda x: F.linear(attend(F.linear(x, qkv, qkv_bias), table, qkv_bias[case.dim :]), proj, proj_bias)


def _where_ours_computes(case: Case, device: str, dtype: torch.dtype) -> str | None:
    return None if (device, dtype) == ("cpu", torch.float32) else "it is torch's there"


CONTESTANTS = {
    "torch eager": Contestant(eager),
    "eager, our linear": Contestant(partial(eager, linear=ops.linear), refuse=_where_ours_computes),
    "torch.compile": Contestant(_compiled),
    "flex attention": Contestant(flex_layer, refuse=flex_refusal),
    "timm": Contestant(_timm(False), "after_roll"),
    "timm fused": Contestant(_timm(True), "after_roll"),
    "esvit_fast cpu": Contestant(_ours("cpu"), refuse=needs("cpu")),
    "esvit_fast triton": Contestant(_ours("triton"), refuse=needs("triton")),
    "esvit_fast cuda": Contestant(_ours("cuda"), refuse=needs("cuda")),
}
"""The first is what the gate measures all others by."""


def inputs(case: Case, batch: int, dtype: torch.dtype, device: str) -> Given:
    """x, weights and the gradient of the output, the same for everyone."""
    g = torch.Generator().manual_seed(0)
    dim, table = case.dim, ((2 * case.window_size - 1) ** 2, case.num_heads)
    shapes = {"qkv.weight": (3 * dim, dim), "qkv.bias": (3 * dim,), "relative_position_bias_table": table}
    shapes |= {"proj.weight": (dim, dim), "proj.bias": (dim,)}
    scale = {"qkv.weight": dim**-0.5, "proj.weight": dim**-0.5}

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    weights = {
        name: (scale.get(name, 1.0) * normal(*shapes[name])).to(device, dtype).requires_grad_() for name in NAMES
    }
    shape = (batch, case.side, case.side, dim)
    return normal(*shape).to(device, dtype).requires_grad_(), weights, normal(*shape).to(device, dtype)


def results(run: Layer, x: Tensor, weights: Weights, grad: Tensor) -> list[Tensor]:
    """Output and all gradients."""
    out = run(x)
    return [out.detach(), *torch.autograd.grad(out, [x, *weights.values()], grad)]


def gate(case: Case, contestant: Contestant, dtype: torch.dtype, device: str) -> float:
    """Errors against float64, in units of what is allowed: above 1 is a failure. Two images are enough."""
    given = inputs(case, 2, dtype, device)

    def run(make: Callable[[Case, Weights], Layer], given: Given) -> list[Tensor]:
        return results(make(case, given[1]), *given)

    plain = partial(eager, pad_mode=contestant.pad_mode)
    return error_ratio(run(contestant.make, given), partial(run, plain), given)


def measure(case: Case, names: Sequence[str], batch: int, dtype: torch.dtype, device: str, rounds: int) -> dict:
    """A record of one case."""
    x, weights, grad = inputs(case, batch, dtype, device)

    def passes(name: str) -> Passes:
        run = CONTESTANTS[name].make(case, weights)
        timed = {"forward": partial(torch.no_grad()(run), x), "training": partial(results, run, x, weights, grad)}
        return Passes(timed)

    rows = contest(
        names,
        refusal=lambda name: CONTESTANTS[name].refuse(case, device, dtype),
        gate=lambda name: gate(case, CONTESTANTS[name], dtype, device),
        passes=passes,
        device=device,
        rounds=rounds,
    )
    return record(identity(case, batch, dtype), rows, rounds, device)


def table(record: dict) -> str:
    """A record for people to read; whoever failed the gate has no times."""
    rows, shape = record["contestants"], record["shape"]
    size = f"[{shape['batch']}, {shape['side']}, {shape['side']}, {shape['dim']}]"
    lines = [
        f"{record['case']}: {size}, {shape['heads']} heads, window {shape['window']}, shift {shape['shift']}, "
        f"{record['dtype']}",
        f"  {'':18} {'forward':>10} {'training':>10} {'times':>7} {'peak':>9}  gate",
    ]
    timed = {name: row for name, row in rows.items() if "training" in row}
    peers = [row["training"]["p50"] for name, row in timed.items() if not ours(name)]
    for name, row in rows.items():
        if name not in timed:
            lines.append(f"  {name:18} {without_times(row)}")
            continue
        times = f"{min(peers) / row['training']['p50']:6.2f}x" if peers else ""
        lines.append(
            f"  {name:18} {row['forward']['p50']:7.2f} ms {row['training']['p50']:7.2f} ms {times:>7} "
            f"{mebibytes(row['peak_bytes']):>9}  {row['error']:.2f} of what is allowed"
        )
    return "\n".join(lines)


register(
    Benchmark(
        "window_attention_layer",
        "Window attention of a layer, with its projections",
        __doc__,
        case_problems({case.name: case for case in CASES}, identity, measure),
        table,
        modes=("forward", "training"),
        contestants=tuple(CONTESTANTS),
        operators=("window_attention", "linear"),
        arguments={"--case": CASE},
        quick={"batch": 1, "case": "swin_t 96 stage 4", "contestants": ["torch eager", "timm", "esvit_fast cpu"]},
        records="window_attention",
        row_per_case=True,
    )
)
