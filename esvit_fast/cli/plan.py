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
from ..errors import UserError
from ..gpus import GPUS, find_gpu
from ..text import counted
from .options import Parser
from .settings import as_words, configured
from .tables import show

if TYPE_CHECKING:
    from ..training.planning.planner import RunPlan, Time


def plan(argv: Sequence[str]) -> int:
    """Say what a run will take; 1 if it does not fit."""
    parser = Parser(
        "plan",
        "What a run will take: memory, images/s, time and disk, from seconds of steps and no training. "
        "Every setting of the recipe can be changed, as in --train.batch-size 64.",
        usage="esvit-fast plan --recipe NAME [--gpu GPU] [--data IMAGES] [OPTION …] [--SETTING VALUE …]",
    )
    parser.add_argument(
        "--gpu",
        help=f"plan for GPUs that are not here, from arithmetic and bytes, without trying: {', '.join(GPUS)}",
    )
    parser.add_argument("--memory", type=float, metavar="GIB", help="that a device has; what it has without it")
    parser.add_argument("--world-size", type=int, default=1, metavar="N", help="devices of the run (%(default)s)")
    parser.add_argument("--no-measure", action="store_true", help="memory and arithmetic only; no step is tried")
    parser.add_argument(
        "--seconds", type=float, default=45, metavar="S", help="in which steps are tried, one at least (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    args, config = configured(parser, list(argv))
    if args.memory is not None and not 0 < args.memory * 2**30 < math.inf:
        raise UserError(f"--memory={args.memory:g} must be a positive number of GiB")
    if args.world_size < 1:
        raise UserError(f"--world-size={args.world_size} must be at least 1")
    if not 0 <= args.seconds < math.inf:
        raise UserError(f"--seconds={args.seconds:g} must be a number of seconds")
    gpu = find_gpu(args.gpu) if args.gpu else None
    from ..data import open_source
    from ..parallel.precision import settled, slow_precision
    from ..training import Ranks, pick_device
    from ..training.planning.estimate import ASSUMED
    from ..training.planning.memory import keep_freed_memory
    from ..training.planning.planner import plan_run

    source = None
    if config.data.source:
        source = open_source(config.data.source, "train", config.data.max_megapixels)
    ranks = Ranks(0, args.world_size, pick_device("cpu" if gpu else config.train.device))
    config = settled(config, ranks, gpu and gpu.capability)
    limit = None if args.memory is None else int(args.memory * 2**30)
    if gpu is None and (slow := slow_precision(config, ranks)):
        print(slow, file=sys.stderr)
    if gpu is None and ranks.device.type == "cpu":
        keep_freed_memory()  # as a run does
    found = plan_run(config, ranks, source, limit, measure=not args.no_measure, gpu=gpu, budget=args.seconds, say=_say)
    where = gpu.title if gpu else str(ranks.device)
    estimate = f"from arithmetic and bytes, not measured: {ASSUMED}; rates: {gpu.source}" if gpu else None
    if args.json:
        facts = dataclasses.asdict(found)
        for name in ("work", "course"):
            del facts["step"][name]
        facts |= {"device": where, "estimate": estimate, "command": _command(args, found)}
        print(json.dumps(facts, indent=2))
    else:
        _show(found, config, f"{args.world_size} x {where}", _command(args, found), estimate)
        if gpu is None and ranks.device.type == "cpu" and (args.world_size > 1 or args.memory is not None):
            print("\nThis is a plan for CPUs, as no GPU is here; --gpu h100, for one, plans for GPUs that are not.")
    return int(found.remedy is not None)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _command(args: argparse.Namespace, found: RunPlan) -> str:
    """The run that fits, as far as one was found."""
    start = "esvit-fast pretrain"
    if args.world_size > 1:
        start = f"torchrun --standalone --nproc-per-node {args.world_size} -m esvit_fast pretrain"
    given = ["--recipe", args.recipe, *(["--data", args.data] if args.data else []), *as_words(args.settings)]
    return " ".join([start, shlex.join(given), *filter(None, [found.remedy]), "--out runs/a"])


def _show(found: RunPlan, config: Config, where: str, command: str, estimate: str | None) -> None:
    train, step, memory, time = config.train, found.step, found.memory, found.time
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row(
        "run",
        f"{config.model.name}, {where}, {train.precision}, {counted(train.batch_size, 'image')} a step in "
        f"micro-batches of {found.images}",
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
            "largest", f"micro-batch of {counted(memory.largest, 'image')}" if memory.largest else "not one image fits"
        )
    if time is None:
        table.add_row("time", "not predicted, since no step was tried")
    else:
        table.add_row("speed", _speed(time, estimate is not None))
        if time.total is not None:
            table.add_row("time", f"{_duration(time.total)} for {counted(time.steps, 'step')}, without evaluation")
    table.add_row(
        "disk", f"{_size(found.disk)}; a checkpoint takes {_size(step.checkpoint)}, the model {_size(step.model)}"
    )
    if estimate:
        table.add_row("estimated", estimate)
    show(table, fold=100)
    if found.remedy == "":
        print("\nIt does not fit, and no setting was found that would; take a smaller model or --data.crops sizes.")
    elif found.remedy:
        print(f"\nIt does not fit; this does:\n  {command}")


def _speed(time: Time, estimated: bool) -> str:
    text = f"{'about ' * estimated}{_number(time.run)} images/s, {time.step:.3g} s a step"
    if time.loader is None:
        tried = "" if estimated else " (pass --data to try it)"
        return f"{text}; the loader must give {_number(time.network)} images/s{tried}"
    return (
        f"{text}; the {time.limit} limits: steps take {_number(time.network)} images/s, which {time.loader_cores:.2g} "
        f"cores can load, the loader gives {_number(time.loader)}"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _size(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
