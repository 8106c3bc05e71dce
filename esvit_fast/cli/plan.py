"""`esvit-fast plan`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from ..config import Config
from .options import Parser
from .settings import as_words, configured
from .tables import show

if TYPE_CHECKING:
    from ..training import Ranks
    from ..training.planner import RunPlan


def plan(argv: Sequence[str]) -> int:
    """Say what a run will take; 1 if it does not fit."""
    parser = Parser(
        "plan",
        "What a run will take: memory, images/s, time and disk, from seconds of steps and no training. "
        "Every setting of the recipe can be changed, as in --train.batch-size 64.",
    )
    parser.add_argument("--memory", type=float, help="GiB that a device has; what it has without it")
    parser.add_argument("--world-size", type=int, default=1, help="devices of the run")
    parser.add_argument("--no-measure", action="store_true", help="memory and arithmetic only; no step is tried")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    args, config = configured(parser, list(argv))
    if args.memory is not None and not 0 < args.memory < math.inf:
        raise ValueError(f"--memory={args.memory:g} must be a positive number of GiB")
    if args.world_size < 1:
        raise ValueError(f"--world-size={args.world_size} must be at least 1")
    from ..data import open_source
    from ..training import Ranks, pick_device
    from ..training.memory import keep_freed_memory
    from ..training.planner import plan_run
    from ..training.precision import settled, slow_precision

    source = None
    if config.data.source:
        source = open_source(config.data.source, "train", config.data.max_megapixels)
    ranks = Ranks(0, args.world_size, pick_device(config.train.device))
    config = settled(config, ranks)
    limit = None if args.memory is None else int(args.memory * 2**30)
    if slow := slow_precision(config, ranks):
        print(slow, file=sys.stderr)
    if not args.no_measure and sys.stderr.isatty():
        print("trying a few steps …", file=sys.stderr)
    if ranks.device.type == "cpu":
        keep_freed_memory()  # as a run does
    found = plan_run(config, ranks, source, limit, measure=not args.no_measure)
    if args.json:
        print(json.dumps({**dataclasses.asdict(found), "command": _command(args, found)}, indent=2))
    else:
        _show(found, config, ranks, _command(args, found))
    return int(found.remedy is not None)


def _command(args: argparse.Namespace, found: RunPlan) -> str:
    """The run that fits, as far as one was found."""
    start = "esvit-fast pretrain"
    if args.world_size > 1:
        start = f"torchrun --standalone --nproc-per-node {args.world_size} -m esvit_fast pretrain"
    given = ["--recipe", args.recipe, *(["--data", args.data] if args.data else []), *as_words(args.settings)]
    return " ".join([start, shlex.join(given), *filter(None, [found.remedy]), "--out runs/a"])


def _show(found: RunPlan, config: Config, ranks: Ranks, command: str) -> None:
    train, step, memory, time = config.train, found.step, found.memory, found.time
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row(
        "run",
        f"{config.model.name}, {ranks.world_size} x {ranks.device}, {train.precision}, {train.batch_size} images a "
        f"step in micro-batches of {found.images}",
    )
    count = {name: f"{number / 1e6:.1f} M" for name, number in step.parameters.items()}
    table.add_row("parameters", f"{count['backbone']} backbone, {count['heads']} heads; {count['trained']} trained")
    flops = {name: number / 1e9 for name, number in step.flops.items()}
    views = ", ".join(f"{flops[name]:.2g} for {name}" for name in flops if name.endswith("px"))
    table.add_row(
        "arithmetic",
        f"{flops['step']:.3g} GFLOP an image, {flops['step'] * train.batch_size / 1e3:.3g} TFLOP a step; forward: "
        f"{views}, heads {flops['heads']:.2g}, loss {flops['loss']:.2g}",
    )
    limit = "" if memory.limit is None else f" of {_size(memory.limit)}"
    table.add_row(
        "memory",
        f"{_size(memory.peak)}{limit}: {_size(step.peak)} of tensors, x {memory.overhead:.2f} in the allocator"
        + (f", {_size(memory.process + memory.fixed)} around" if memory.process else ""),
    )
    table.add_row("", ", ".join(f"{kind} {_size(size)}" for kind, size in step.parts.items() if size >= 2**19))
    if memory.largest is not None:
        table.add_row(
            "largest", f"micro-batch of {memory.largest:,} images" if memory.largest else "not one image fits"
        )
    if time is None:
        table.add_row("time", "not predicted, since no step was tried")
    else:
        table.add_row("speed", _speed(time))
        if time.total is not None:
            table.add_row("time", f"{_duration(time.total)} for {time.steps:,} steps, without evaluation")
    table.add_row(
        "disk", f"{_size(found.disk)}; a checkpoint takes {_size(step.checkpoint)}, the model {_size(step.model)}"
    )
    show(table)
    if found.remedy == "":
        print("\nIt does not fit, and no setting was found that would; take a smaller model or --data.crops sizes.")
    elif found.remedy:
        print(f"\nIt does not fit; this does:\n  {command}")


def _speed(time) -> str:
    text = f"{time.run:.3g} images/s, {time.step:.3g} s a step"
    if time.loader is None:
        return f"{text}; the loader must give {time.network:.3g} images/s (pass --data to try it)"
    return (
        f"{text}; the {time.limit} limits: steps take {time.network:.3g} images/s, which {time.loader_cores:.2g} cores "
        f"can load, the loader gives {time.loader:.3g}"
    )


def _size(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
