"""`esvit-fast pretrain` and `esvit-fast resume`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import tyro

from ..config import Config, load_config, recipe_names, validate
from ..training import Outcome, Ranks, Reporter, setup_distributed, teardown_distributed
from ..training import pretrain as start_run
from ..training import resume as resume_run
from ..training.memory import keep_freed_memory
from ..training.profiling import WARM_UP
from ..training.progress import make_reporter
from ..training.start import changeable


def pretrain(argv: Sequence[str]) -> int:
    """Start a run."""
    parser = argparse.ArgumentParser(
        "esvit-fast pretrain",
        description="Pretrain a backbone. Every setting of the recipe can be changed, as in --train.batch-size 64.",
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("--out", type=Path, help="folder of the run, new or empty")
    parser.add_argument(
        "--profile",
        type=int,
        default=0,
        metavar="N",
        help=f"write into the folder where the time of N steps goes, after the first {WARM_UP} (profile.txt, "
        "profile.json, and trace.json.gz for chrome://tracing or Perfetto); the run goes on",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run that --out holds, if it holds one")
    args, config = configured(parser, argv)
    if args.out is None:
        raise ValueError("--out is missing; it is the folder of the run")
    if args.profile < 0:
        raise ValueError(f"profile={args.profile} must not be negative; it is how many steps are looked at")

    def start(ranks: Ranks, reporter: Reporter) -> Outcome:
        return start_run(config, args.out, ranks, reporter, args.profile, or_resume=args.resume)

    return run(start, args.out, config.train.device)


def configured(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, Config]:
    """What a command is told, with what changes settings as `settings`, and the recipe with those changes."""
    parser.add_argument("--recipe", help=f"a YAML file, or one of {', '.join(recipe_names())}")
    parser.add_argument("--data", help="images: a folder, list, archive, shards, … (see data.source)")
    args, settings = parser.parse_known_args(list(argv))
    args.settings = settings
    if {"-h", "--help"} & set(settings):
        parser.print_help()
        print()
    elif args.recipe is None:
        raise ValueError(f"--recipe is missing; recipes: {', '.join(recipe_names())}")
    config = load_config(args.recipe) if args.recipe else Config()
    if args.data is not None:
        config = replace(config, data=replace(config.data, source=args.data))
    return args, validate(tyro.cli(Config, args=settings, default=config, prog=parser.prog))


def resume(argv: Sequence[str]) -> int:
    """Go on with a run."""
    parser = argparse.ArgumentParser(
        "esvit-fast resume",
        description="Go on with a run from its last checkpoint, on any number of ranks, with the settings and images "
        "that it began with. One that is complete goes on with a larger --train.epochs.",
        epilog=_kept(),
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="the folder that `pretrain --out` was given")
    parser.add_argument("--data", help="where its images are now, if they have been moved")
    args, changes = parser.parse_known_args(list(argv))
    if not (args.run / "config.yaml").is_file():
        raise ValueError(
            f"run={str(args.run)!r} holds no run (no config.yaml); pass the folder that `pretrain --out` was given"
        )
    own = load_config(args.run / "config.yaml")
    if args.data is not None:
        own = replace(own, data=replace(own.data, source=args.data))
    config = validate(tyro.cli(Config, args=changes, default=own, prog="esvit-fast resume"))
    return run(lambda ranks, reporter: resume_run(args.run, ranks, reporter, config), args.run, config.train.device)


def _kept() -> str:
    """Which settings may change on resuming, in words."""
    same, cures = (", ".join(names) for names in changeable())
    return (
        f"These may be given, as in --train.micro-batch-size 64, and change nothing but where and how it is computed: "
        f"{same}. These make it another run from there on, to cure it, as in --train.learning-rate 1e-4, and a record "
        f"in metrics.jsonl tells them: {cures}; a weight does not change from or to 0. All others stay as they are."
    )


def run(call: Callable[[Ranks, Reporter], Outcome], out: Path, device: str) -> int:
    """Make a run under the process group that torchrun asks for, and say how it ended."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    ranks = setup_distributed(device)
    if ranks.device.type == "cpu":
        keep_freed_memory()
    try:
        outcome = call(ranks, make_reporter())
    finally:
        teardown_distributed()
    if ranks.is_main:
        print(_ending(outcome, out), file=sys.stderr)
    return 128 + outcome.signal if outcome.signal else 0


def _ending(outcome: Outcome, out: Path) -> str:
    """How a run ended, and what comes next, in a line."""
    if outcome.signal:
        return f"stopped at step {outcome.step} of {outcome.total_steps}, saved; go on with `esvit-fast resume {out}`"
    weights = f"weights in {out / 'model.safetensors'}"
    if outcome.begun == outcome.total_steps:
        return (
            f"{out} is complete at step {outcome.step}; nothing to do, {weights}; "
            f"`esvit-fast resume {out} --train.epochs N` with a larger N goes on"
        )
    return f"done: {outcome.step} steps in {outcome.seconds:.0f} s; {weights}"
