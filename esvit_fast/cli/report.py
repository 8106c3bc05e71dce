"""`esvit-fast report`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from ..config import load_config
from ..data import open_source, open_test
from ..errors import UserError
from ..evaluation import Entry, ImageSettings, Result, default_suite, evaluate_run, get_protocol
from ..models import create_model
from ..reporting import write_report
from ..training import build_backbone, pick_device
from . import bugs
from .evaluate import show
from .options import Parser
from .task_progress import task_progress

_DEFAULTS = ImageSettings()


def report(argv: Sequence[str]) -> int:
    """Evaluate a run before and after training and write its report."""
    parser = Parser("report", "Write report.html of a run.")
    parser.add_argument("run", type=Path, help="the folder that `pretrain --out` was given")
    parser.add_argument("--out", type=Path, help="the page; by default report.html in the run's folder")
    parser.add_argument(
        "--bank", type=int, default=_DEFAULTS.bank, help="training images at most, 0: all (%(default)s)"
    )
    parser.add_argument("--queries", type=int, default=_DEFAULTS.queries, help="test images at most, 0: all")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    args = parser.parse_args(argv)
    suite = default_suite(bank=args.bank, queries=args.queries)
    results = make_report(args.run, suite, args.out, device=pick_device(args.device))
    if args.json:
        print(json.dumps({name: result.tree() for name, result in results.items()}, indent=1))
    return 0


def make_report(
    run: Path,
    suite: Sequence[Entry] | None = None,
    out: Path | None = None,
    *,
    device: torch.device | str = "cpu",
) -> dict[str, Result]:
    """Evaluate, write the page, and print the headline figures; returns all results by protocol.

    Args:
        suite: what to evaluate; None takes `default_suite()`.

    Raises:
        UserError: the folder holds no run with weights, or the page cannot be written.
    """
    if not (run / "config.yaml").is_file():
        raise UserError(
            f"run={str(run)!r} holds no run (no config.yaml); pass the folder that `pretrain --out` was given"
        )
    bugs.belongs_to(run)
    path = run / "report.html" if out is None else out
    if path.is_dir() or not os.access(path.parent, os.W_OK):  # asked before hours of work, not after
        raise UserError(f"{str(path)!r} cannot be written; pass another file as --out")
    config = load_config(run / "config.yaml")
    untrained = build_backbone(config).to(device)
    model = create_model(config.model.name, pretrained=run).to(device)
    train = open_source(config.data.source, "train", config.data.max_megapixels)
    test = open_test(config.data.source, config.data.max_megapixels)
    console = Console(stderr=True)
    with task_progress(console) as progress:
        results = evaluate_run(
            model, untrained, train, test, config.data.augment, suite, device=device, progress=progress
        )
    for result in results.values():  # before the page, which a full disk may keep from being written
        if get_protocol(result.protocol).columns:
            show(console, result)
            console.print()
    with task_progress(console) as progress:
        progress("pictures", 0, 1)
        write_report(
            run,
            model=model,
            untrained=untrained,
            source=train,
            test_source=test,
            config=config,
            evaluation=results,
            path=path,
            device=device,
        )
        progress("pictures", 1, 1)
    console.print(f"report: {path}", markup=False, highlight=False, soft_wrap=True)
    return results
