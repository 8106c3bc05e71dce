"""A whole foreign model as it comes, and patched: time and memory of forward and backward."""

from __future__ import annotations

import argparse
import copy
import itertools
from collections.abc import Iterator, Sequence
from functools import partial

import timm
import torch
from torch import Tensor, nn

from benchmarks.measuring.contest import Passes, contest
from benchmarks.measuring.exactness import Draw, draws, judge, rms
from benchmarks.measuring.records import record
from benchmarks.measuring.words import without_times
from benchmarks.registry import Benchmark, Problem, register
from esvit_fast.nn import patch_model

CONTESTANTS = ("timm", "timm fused", "timm compiled", "esvit_fast")


def contestants(model: nn.Module) -> dict[str, nn.Module]:
    """timm's two settings, the second compiled, and ours."""
    plain, fused, patched = (copy.deepcopy(model) for _ in range(3))
    for copied, setting in ((plain, False), (fused, True)):
        for module in copied.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = setting
    report = patch_model(patched)
    if len(report.patched) != len(report) or not report.rows:
        raise SystemExit(str(report))
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(fused), dynamic=False)
    return dict(zip(CONTESTANTS, (plain, fused, compiled, patched), strict=True))


def results(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Output and gradients of all parameters, for a loss that treats no output like another."""
    out = model(images)
    weights = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=out.dtype).view_as(out)
    return [out.detach(), *torch.autograd.grad(out, list(model.parameters()), weights)]


def measure(name: str, names: Sequence[str], batch: int, dtype: torch.dtype, device: str, rounds: int) -> dict:
    """A record of one model at its own resolution; timm always takes part."""
    torch.manual_seed(0)
    model = timm.create_model(name, drop_path_rate=0.0).to(device, dtype)
    side = model.default_cfg["input_size"][-1]
    images = torch.randn(batch, 3, side, side, device=device, dtype=dtype)
    models = {c: copied for c, copied in contestants(model).items() if c in (*names, "timm")}
    double = copy.deepcopy(model).double()

    def evaluate(images: Tensor) -> Draw:
        return results(models["timm"], images), results(double, images.double())

    first = evaluate(images[:2])

    def gate(contestant: str) -> float:
        found = results(models[contestant], images[:2])
        # of 28 million numbers some are far off in any order of sums: the largest error has a limit of its own
        drawn = itertools.chain([first], draws(evaluate, images[:2], begin=1))
        ratio = judge(found, drawn, (rms,)).ratio
        if dtype == torch.float32:
            ratio = max(ratio, *(_largest(a, b) / 1e-5 for a, b in zip(found, first[1], strict=True)))
        return ratio

    rows = contest(
        list(models),
        gate=gate,
        passes=lambda contestant: Passes({"training": partial(results, models[contestant], images)}),
        device=device,
        rounds=rounds,
    )
    return record(identity(name, batch, side, dtype), rows, rounds, device)


def identity(name: str, batch: int, side: int, dtype: torch.dtype) -> dict:
    """What tells a record from those of other models."""
    return {"op": "model", "case": name, "shape": {"batch": batch, "side": side}, "dtype": str(dtype)}


def _largest(found: Tensor, exact: Tensor) -> float:
    return ((found - exact).abs().max() / exact.abs().max()).item()


def table(record: dict) -> str:
    """A record for people to read."""
    rows = record["contestants"]
    lines = [f"{record['case']}: {record['shape']['batch']} images, forward and backward, {record['dtype']}"]
    timed = {name: row for name, row in rows.items() if "training" in row}
    peers = [row["training"]["p50"] for name, row in timed.items() if name != "esvit_fast"]
    for name, row in rows.items():
        if name not in timed:
            lines.append(f"  {name:12} gate {without_times(row)}")
            continue
        lines.append(
            f"  {name:12} {row['training']['p50']:8.1f} ms {min(peers) / row['training']['p50']:6.2f}x "
            f"{row['peak_bytes'] / 2**20:6.0f} MiB  {row['error']:.2f} of what is allowed"
        )
    return "\n".join(lines)


def _problems(args: argparse.Namespace) -> Iterator[Problem]:
    dtype, side = getattr(torch, args.dtype), timm.get_pretrained_cfg(args.name).input_size[-1]
    settings = {"batch": args.batch, "dtype": dtype, "device": args.device, "rounds": args.rounds}
    yield Problem(identity(args.name, args.batch, side, dtype), partial(measure, args.name, **settings))


register(
    Benchmark(
        "whole_model",
        "Whole models of timm",
        __doc__,
        _problems,
        table,
        modes=("training",),
        contestants=CONTESTANTS,
        operators=("window_attention", "linear"),
        arguments={"--name": {"default": "swin_tiny_patch4_window7_224", "help": "of a Swin in timm"}},
        quick={"batch": 1, "contestants": ["timm", "esvit_fast"]},
        records="model",
    )
)
