"""`esvit-fast pretrain` and `esvit-fast resume`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import Config, Setting, load_config
from ..errors import UserError
from ..text import counted
from . import bugs
from .options import Parser
from .settings import add_settings, changed, configured, what_it_does

if TYPE_CHECKING:  # torch takes seconds to import, for which no help and no typo waits
    from ..training import Outcome, Ranks, Reporter


def pretrain(argv: Sequence[str]) -> int:
    """Start a run."""
    parser = Parser(
        "pretrain",
        "Pretrain a backbone. Every setting of the recipe can be changed, as in --train.batch-size 64.",
        usage="esvit-fast pretrain --recipe NAME --data IMAGES --out FOLDER [OPTION …] [--SETTING VALUE …]",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder of the run, new or empty")
    parser.add_argument(
        "--profile",
        type=int,
        default=0,
        metavar="N",
        help="write into the folder where the time of N steps goes, after the first few (profile.txt, profile.json, "
        "and trace.json.gz for chrome://tracing or Perfetto); the run goes on",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run that --out holds, if it holds one")
    args, config = configured(parser, list(argv))
    if not config.data.source:
        raise UserError(f"--data is missing; pass images: {what_it_does('data.source').rstrip('.')}")
    if args.out is None:
        raise UserError("--out is missing; it is the folder of the run")
    bugs.belongs_to(args.out)
    if args.profile < 0:
        raise UserError(f"profile={args.profile} must not be negative; it is how many steps are looked at")
    from ..training import pretrain as start_run

    def start(ranks: Ranks, reporter: Reporter) -> Outcome:
        return start_run(config, args.out, ranks, reporter, args.profile, or_resume=args.resume)

    return run(start, args.out, config.train.device)


def resume(argv: Sequence[str]) -> int:
    """Go on with a run."""
    argv, own = list(argv), None
    with suppress(ValueError):  # one that cannot be read is told below
        files = (Path(word) / "config.yaml" for word in argv)
        own = next((load_config(file) for file in files if file.is_file()), None)
    args = _parser_of_resume(own).parse_args(argv)  # whose settings are those of its method
    if not (args.run / "config.yaml").is_file():
        raise UserError(
            f"run={str(args.run)!r} holds no run (no config.yaml); pass the folder that `pretrain --out` was given"
        )
    bugs.belongs_to(args.run)
    own = load_config(args.run / "config.yaml")
    if args.data is not None:
        own = replace(own, data=replace(own.data, source=args.data))
    config = changed(own, args.settings)
    from ..training import resume as resume_run

    return run(lambda ranks, reporter: resume_run(args.run, ranks, reporter, config), args.run, config.train.device)


def _parser_of_resume(own: Config | None = None) -> Parser:
    """What `resume` takes; --help tells the settings of a run."""
    parser = Parser(
        "resume",
        "Go on with a run from its last checkpoint, on any number of ranks, with the settings and images that it began "
        "with. One that is complete goes on with a larger --train.epochs. Of its settings, these may be given: such as "
        "change nothing but where and how it is computed, as --train.micro-batch-size 64, and such as cure it, as "
        "--train.learning-rate 1e-4, which a record in metrics.jsonl tells; a weight does not change from or to 0.",
        usage="esvit-fast resume RUN [--SETTING VALUE …]",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder that `pretrain --out` was given")
    parser.add_argument("--data", metavar="IMAGES", help="where its images are now, if they have been moved")
    add_settings(parser, own, shown=Setting.may_change)
    return parser


def run(call: Callable[[Ranks, Reporter], Outcome], out: Path, device: str) -> int:
    """Make a run under the process group that torchrun asks for, and say how it ended."""
    from ..data.loading.workers import WorkerDied
    from ..parallel.ranks import is_loss_of_a_rank
    from ..training import setup_distributed, teardown_distributed
    from ..training.monitoring.progress import make_reporter
    from ..training.planning.memory import keep_freed_memory

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    ranks = setup_distributed(device)
    if ranks.device.type == "cpu":
        keep_freed_memory()
    try:
        outcome = call(ranks, make_reporter())
    except Exception as error:
        if not (isinstance(error, WorkerDied) or is_loss_of_a_rank(error)):  # a farewell would wait for who is gone
            teardown_distributed()
        raise
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
    return f"done: {counted(outcome.step, 'step')} in {outcome.seconds:.0f} s; {weights}"
