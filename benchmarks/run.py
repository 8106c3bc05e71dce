"""Measure, and add to the records: `python benchmarks/run.py window_attention`; `--help` names all that can be."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the rooms are found

import torch
import torch._dynamo

from benchmarks.measuring.checkout import RECORDS
from benchmarks.measuring.gpu import on_gpu
from benchmarks.measuring.records import append, recorded
from benchmarks.registry import Benchmark, benchmarks


def common() -> dict[str, dict]:
    """The options of every benchmark, unless it has others in their place."""
    gpu = torch.cuda.is_available()
    dtypes = ["float32", "bfloat16", "float16"]
    return {
        "--batch": {"type": int, "default": 64 if gpu else 8},
        "--dtype": {"choices": dtypes, "default": "bfloat16" if gpu else "float32"},
        "--device": {"default": "cuda" if gpu else "cpu"},
        "--rounds": {"type": int, "default": 15},
        "--resume": {"action": "store_true", "help": "leave out what has a record of this commit"},
        "--threads": {"type": int, "help": "of the CPU; torch's choice without it"},
        "--records": {"type": Path, "default": RECORDS},
        "--dry": {"action": "store_true", "help": "record nothing"},
        "--quick": {"action": "store_true", "help": "one small case in seconds, to see that it works; records nothing"},
    }


def add_command(commands: argparse._SubParsersAction, benchmark: Benchmark) -> None:
    """The command of a benchmark, with its own options and those that are common."""
    summary = benchmark.summary.partition("\n")[0]
    command = commands.add_parser(benchmark.name, help=summary, description=summary)
    command.set_defaults(benchmark=benchmark, resume=False)
    named = {"nargs": "+", "choices": [*benchmark.contestants], "help": "all that can run here without it"}
    options = common() | ({"--contestants": named} if benchmark.contestants else {}) | dict(benchmark.arguments)
    for name, option in options.items():
        if option is not None:
            command.add_argument(name, **option)


def contestants(benchmark: Benchmark, args: argparse.Namespace) -> list[str]:
    """Who takes part: who was named, or all but those that are for a GPU where there is none."""
    if not benchmark.contestants:
        return []
    return args.contestants or [
        name for name in benchmark.contestants if on_gpu(args.device) or name not in benchmark.for_gpus
    ]


def measure(benchmark: Benchmark, args: argparse.Namespace) -> None:
    """Print a record of each problem, and add it to the others unless nothing is to be recorded."""
    names = contestants(benchmark, args)
    for problem in itertools.islice(benchmark.problems(args), 1 if args.quick else None):
        if args.resume and recorded(problem.like, names, benchmark.file, args.device, args.records):
            continue
        record = problem.measure(names)
        print(benchmark.table(record) + "\n", flush=True)
        if not args.dry:
            append(record, benchmark.file, args.records)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, then measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="benchmark")
    for benchmark in benchmarks().values():
        add_command(commands, benchmark)
    args = parser.parse_args(argv)
    if args.quick:
        commands.choices[args.benchmark.name].set_defaults(dry=True, rounds=3, **args.benchmark.quick)
        args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message=".*Profiler clears events")
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):  # rather than run uncompiled
        measure(args.benchmark, args)


if __name__ == "__main__":
    os.environ.setdefault("ESVIT_FAST_UNPROVEN", "1")  # what has no record yet is what a record is made of
    main()
