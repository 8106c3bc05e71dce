"""The linear layers of Swin-T on a CPU in float32: time of everyone who computes them with gradients."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring.contest import Passes, contest
from benchmarks.measuring.exactness import error_ratio
from benchmarks.measuring.gpu import on_gpu
from benchmarks.measuring.records import record
from benchmarks.measuring.words import without_times
from benchmarks.operators.window_attention import CASES as MAPS
from benchmarks.registry import CASE, Benchmark, Problem, chosen_cases, register
from esvit_fast import ops

CASES = {
    f"{of.name} {layer}": (of.side**2, ins * of.dim, outs * of.dim)
    for of in MAPS
    if of.name.startswith("swin_t 224")
    for layer, ins, outs in (("qkv", 1, 3), ("proj", 1, 1), ("fc1", 1, 4), ("fc2", 4, 1))
}
"""Tokens of an image, channels in and out."""


@contextmanager
def _precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _torch(precision: str) -> Callable[..., list[Tensor]]:
    def run(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor | None) -> list[Tensor]:
        with _precision(precision):
            return _results(F.linear, x, weight, bias, grad)

    return run


def _ours(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor | None) -> list[Tensor]:
    return _results(lambda *args: ops.linear(*args, backend="cpu"), x, weight, bias, grad)


def _results(layer: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor | None):
    """Output, and without `grad` nothing else, or all gradients."""
    if grad is None:
        with torch.no_grad():
            return [layer(x, weight, bias)]
    out = layer(x, weight, bias)
    return [out.detach(), *torch.autograd.grad(out, [x, weight, bias], grad)]


CONTESTANTS = {"torch eager": _torch("highest"), "torch, oneDNN": _torch("medium"), "esvit_fast cpu": _ours}
"""torch multiplies by MKL, or where rounding is allowed by oneDNN, which rounds no more here: the gate is the same."""


def inputs(case: str, batch: int) -> list[Tensor]:
    """x, weight, bias and the gradient of the output."""
    g, (tokens, ins, outs) = torch.Generator().manual_seed(0), CASES[case]
    shapes = (batch * tokens, ins), (outs, ins), (outs,), (batch * tokens, outs)
    x, weight, bias, grad = (torch.randn(shape, generator=g) for shape in shapes)
    return [x.requires_grad_(), (weight * ins**-0.5).requires_grad_(), bias.requires_grad_(), grad]


def gate(case: str, name: str) -> float:
    """Errors against float64, in units of what is allowed: above 1 is a failure. Two images are enough."""
    given = inputs(case, 2)
    return error_ratio(CONTESTANTS[name](*given), lambda drawn: CONTESTANTS["torch eager"](*drawn), given)


def measure(case: str, names: Sequence[str], batch: int, device: str, rounds: int) -> dict:
    """A record of one layer."""
    if on_gpu(device):
        raise SystemExit(f"--device {device}: GPUs multiply by cuBLAS, of which there is nothing to compare; pass cpu")
    *given, grad = inputs(case, batch)

    def passes(name: str) -> Passes:
        run = CONTESTANTS[name]
        return Passes({"forward": partial(run, *given, None), "training": partial(run, *given, grad)})

    rows = contest(names, gate=partial(gate, case), passes=passes, device=device, rounds=rounds)
    return record(identity(case, batch), rows, rounds, device)


def identity(case: str, batch: int) -> dict:
    """What tells a record from those of other layers."""
    tokens, ins, outs = CASES[case]
    shape = {"batch": batch, "tokens": tokens, "in": ins, "out": outs}
    return {"op": "linear", "case": case, "shape": shape, "dtype": "torch.float32"}


def table(record: dict) -> str:
    """A record for people to read; whoever failed the gate has no times."""
    rows, shape = record["contestants"], record["shape"]
    lines = [f"{record['case']}: {shape['batch']} x {shape['tokens']} tokens, {shape['in']} -> {shape['out']}"]
    flop = 2 * shape["batch"] * shape["tokens"] * shape["in"] * shape["out"]
    for name, row in rows.items():
        if "training" not in row:
            lines.append(f"  {name:18} gate {without_times(row)}")
            continue
        forward, training = (row[mode]["p50"] for mode in ("forward", "training"))
        lines.append(
            f"  {name:18} {forward:7.2f} ms {training:7.2f} ms {flop / forward / 1e6:6.0f} "
            f"{3 * flop / training / 1e6:6.0f} GFLOP/s  {row['error']:.2f} of what is allowed"
        )
    return "\n".join(lines)


def _problems(args: argparse.Namespace) -> Iterator[Problem]:
    for case in chosen_cases(CASES, args.case):
        settings = {"batch": args.batch, "device": args.device, "rounds": args.rounds}
        yield Problem(identity(case, args.batch), partial(measure, case, **settings))


register(
    Benchmark(
        "linear",
        "Linear layers of a Swin-T",
        __doc__,
        _problems,
        table,
        modes=("forward", "training"),
        contestants=tuple(CONTESTANTS),
        arguments={
            "--case": CASE,
            "--batch": {"type": int, "default": 8},
            "--device": {"default": "cpu"},
            "--dtype": None,
        },
        quick={"batch": 1, "case": "stage 4 proj"},
        row_per_case=True,
    )
)
