"""Measure, and add to the records: `python benchmarks/run.py attention`."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import warnings
from pathlib import Path

import torch
import torch._dynamo

sys.path.insert(0, str(Path(__file__).parents[1]))  # the folder is no installed package

from benchmarks.measuring.timing import RECORDS, append, on_gpu, recorded
from benchmarks.operators import linear, multicrop_augment, prototype_cross_entropy
from benchmarks.operators import window_attention as kernels
from benchmarks.operators import window_attention_timed as window_attention
from benchmarks.operators.window_attention_layer import CONTESTANTS
from benchmarks.systems import loader, planner, step, whole_model


def done(args: argparse.Namespace, file: str, names: list[str], **like: object) -> bool:
    """Whether --resume leaves a case out, whose record of this commit is there."""
    return args.resume and recorded(like, names, file, args.device, args.records)


def keep(args: argparse.Namespace, text: str, record: dict, file: str) -> None:
    """Print what a record says, and add it to the others unless nothing is to be recorded."""
    print(text, flush=True)
    if not args.dry:
        append(record, file, args.records)


def ceilings(args: argparse.Namespace) -> None:
    """Print and record what a GPU can do at all."""
    record = kernels.ceilings(args.device)
    copied, multiplied = record["bytes_per_s"] / 1e12, record["flop_per_s"] / 1e12
    keep(args, f"copy {copied:.2f} TB/s, bfloat16 product {multiplied:.0f} TFLOP/s", record, "ceilings")


def operators(args: argparse.Namespace) -> None:
    """Print and record the operator alone, of every case."""
    names = [name for name in kernels.CONTESTANTS if name in (args.contestants or kernels.CONTESTANTS)]
    dtype = getattr(torch, args.dtype)
    for case in window_attention.chosen_cases(args.case):
        if done(args, "kernels", names, **window_attention.identity(case, args.batch, dtype)):
            continue
        record = kernels.measure(case, names, args.batch, dtype, args.device, args.rounds)
        keep(args, kernels.table(record) + "\n", record, "kernels")


def attention(args: argparse.Namespace) -> None:
    """Print and record every case."""
    names = [name for name in CONTESTANTS if not args.contestants or name in args.contestants]
    dtype = getattr(torch, args.dtype)
    for case in window_attention.chosen_cases(args.case):
        if done(args, "window_attention", names, **window_attention.identity(case, args.batch, dtype)):
            continue
        record = window_attention.measure(case, names, args.batch, dtype, args.device, args.rounds)
        keep(args, window_attention.table(record) + "\n", record, "window_attention")


def layers(args: argparse.Namespace) -> None:
    """Print and record every linear layer."""
    names = [name for name in linear.CONTESTANTS if not args.contestants or name in args.contestants]
    for case in linear.CASES:
        if not done(args, "linear", names, **linear.identity(case, args.batch)):
            record = linear.measure(case, names, args.batch, args.device, args.rounds)
            keep(args, linear.table(record) + "\n", record, "linear")


def loss(args: argparse.Namespace) -> None:
    """Print and record the loss of every number of tokens, images and prototypes."""
    names = [name for name in prototype_cross_entropy.CONTESTANTS if not args.contestants or name in args.contestants]
    most = args.memory and args.memory * 2**30
    for tokens, batch, prototypes in itertools.product(args.tokens, args.batch, args.prototypes):
        case = prototype_cross_entropy.Case(batch, prototypes, tokens)
        if done(args, "prototype_cross_entropy", names, shape=vars(case), dtype=f"torch.{args.dtype}"):
            continue
        dtype = getattr(torch, args.dtype)
        record = prototype_cross_entropy.measure(case, names, dtype, args.device, args.rounds, most)
        keep(args, prototype_cross_entropy.table(record), record, "prototype_cross_entropy")


def augment(args: argparse.Namespace) -> None:
    """Print and record the augmentation of a batch."""
    names = args.contestants or [*multicrop_augment.CONTESTANTS]
    dtype = getattr(torch, args.dtype)
    if done(args, "multicrop_augment", names, **multicrop_augment.identity(args.batch, dtype)):
        return
    record = multicrop_augment.measure(names, args.batch, dtype, args.device, args.rounds)
    keep(args, multicrop_augment.table(record), record, "multicrop_augment")


def load(args: argparse.Namespace) -> None:
    """Print and record the way from files to views, on one core unless --threads says otherwise."""
    torch.set_num_threads(args.threads or 1)
    names = [name for name in loader.CONTESTANTS if on_gpu(args.device) or name not in loader.FOR_GPUS]
    names = args.contestants or names
    if done(args, "loader", names, **loader.identity(args.data, args.batch)):
        return
    record = loader.measure(args.data, names, args.batch, args.rounds, args.device)
    keep(args, loader.table(record), record, "loader")


def training_step(args: argparse.Namespace) -> None:
    """Print and record a training step."""
    names = args.contestants or [name for name in step.CONTESTANTS if on_gpu(args.device) or name not in step.FOR_GPUS]
    precision = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[args.dtype]
    if done(args, "step", names, **step.identity(args.recipe, args.batch, precision)):
        return
    record = step.measure(args.recipe, names, args.batch, precision, args.device, args.rounds)
    keep(args, step.table(record), record, "step")


def model(args: argparse.Namespace) -> None:
    """Print and record a whole model."""
    record = whole_model.measure(
        args.name, args.contestants, args.batch, getattr(torch, args.dtype), args.device, args.rounds
    )
    keep(args, whole_model.table(record), record, "model")


def plan(args: argparse.Namespace) -> None:
    """Print and record what a plan predicts, and what is measured."""
    precision = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[args.dtype]
    for name in args.models:
        record = planner.measure([name], precision, args.device)
        keep(args, planner.table(record), record, "planner")


def _common(command: argparse.ArgumentParser, several: bool = False) -> None:
    batch = 64 if torch.cuda.is_available() else 8
    command.add_argument("--batch", type=int, nargs="+" if several else None, default=[batch] if several else batch)
    _on(command)
    _recording(command)


def _on(command: argparse.ArgumentParser) -> None:
    gpu = torch.cuda.is_available()
    command.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="bfloat16" if gpu else "float32"
    )
    command.add_argument("--device", default="cuda" if gpu else "cpu")


def _recording(command: argparse.ArgumentParser) -> None:
    _keeping(command)
    command.add_argument("--rounds", type=int, default=15)
    command.add_argument("--resume", action="store_true", help="leave out what has a record of this commit")


def _keeping(command: argparse.ArgumentParser) -> None:
    command.add_argument("--threads", type=int, help="of the CPU; torch's choice without it")
    command.add_argument("--records", type=Path, default=RECORDS)
    command.add_argument("--dry", action="store_true", help="record nothing")


def main() -> None:
    """Parse, then measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("ceilings", help="what a GPU can do at all")
    command.set_defaults(run=ceilings)
    _common(command)
    command = commands.add_parser("kernels", help=kernels.__doc__)
    command.set_defaults(run=operators)
    command.add_argument("--case", help="a part of the names of cases; all without it")
    command.add_argument("--contestants", nargs="+", choices=[*kernels.CONTESTANTS], help="all without it")
    _common(command)
    command = commands.add_parser("attention", help=window_attention.__doc__)
    command.set_defaults(run=attention)
    command.add_argument("--case", help="a part of the names of cases; all without it")
    command.add_argument("--contestants", nargs="+", choices=[*CONTESTANTS], help="all without it")
    _common(command)
    command = commands.add_parser("linear", help=linear.__doc__)
    command.set_defaults(run=layers, device="cpu")
    command.add_argument("--contestants", nargs="+", choices=[*linear.CONTESTANTS], help="all without it")
    command.add_argument("--batch", type=int, default=8)
    _recording(command)
    command = commands.add_parser("loss", help=prototype_cross_entropy.__doc__)
    command.set_defaults(run=loss)
    command.add_argument("--prototypes", nargs="+", type=int, default=[65536])
    command.add_argument("--tokens", nargs="+", choices=[*prototype_cross_entropy.TOKENS], default=["swin"])
    command.add_argument("--contestants", nargs="+", choices=[*prototype_cross_entropy.CONTESTANTS])
    command.add_argument("--memory", type=float, help="GiB that one may hold; without it a part of what is free")
    _common(command, several=True)
    command = commands.add_parser("augment", help=multicrop_augment.__doc__)
    command.set_defaults(run=augment)
    command.add_argument("--contestants", nargs="+", choices=[*multicrop_augment.CONTESTANTS], help="all without it")
    _common(command)
    command = commands.add_parser("loader", help=loader.__doc__)
    command.set_defaults(run=load)
    command.add_argument("--device", default="cpu", help="cuda: also whoever decodes there")
    command.add_argument("--data", required=True, help="a folder, a list, a .zip or .tar of photographs")
    command.add_argument("--contestants", nargs="+", choices=[*loader.CONTESTANTS], help="all without it")
    command.add_argument("--batch", type=int, default=20)
    _recording(command)
    command = commands.add_parser("step", help=step.__doc__)
    command.set_defaults(run=training_step)
    command.add_argument("--recipe", default="swin_tiny_w7")
    command.add_argument("--contestants", nargs="+", choices=[*step.CONTESTANTS], help="all without it")
    _common(command)
    command = commands.add_parser("model", help=whole_model.__doc__)
    command.set_defaults(run=model)
    command.add_argument("--name", default="swin_tiny_patch4_window7_224", help="of a Swin in timm")
    command.add_argument(
        "--contestants", nargs="+", choices=whole_model.CONTESTANTS, help="all without it; timm always"
    )
    _common(command)
    command = commands.add_parser("plan", help=planner.__doc__)
    command.set_defaults(run=plan)
    command.add_argument("--models", nargs="+", choices=[*planner.CASES], default=[*planner.CASES])
    _on(command)
    _keeping(command)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message="Profiler clears events")
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):  # rather than run uncompiled
        args.run(args)


if __name__ == "__main__":
    os.environ.setdefault("ESVIT_FAST_UNPROVEN", "1")  # what has no record yet is what a record is made of
    main()
