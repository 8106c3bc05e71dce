"""`esvit-fast report`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ..config import load_config
from ..data import open_source
from ..evaluation import evaluate_run, write_report
from ..models import create_model
from ..training import build_backbone, pick_device


def report(argv: Sequence[str]) -> int:
    """Evaluate a run before and after training and write its report."""
    parser = argparse.ArgumentParser("esvit-fast report", description="Write report.html of a run.")
    parser.add_argument("run", type=Path, help="the folder that `pretrain --out` was given")
    parser.add_argument(
        "--bank", type=int, help="training images at most, 0: all; by default the recipe's eval.knn-bank"
    )
    parser.add_argument("--queries", type=int, help="test images at most, 0: all")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    args = parser.parse_args(argv)
    make_report(args.run, bank=args.bank, queries=args.queries, device=pick_device(args.device))
    return 0


def make_report(
    run: Path, *, bank: int | None = None, queries: int | None = None, device: torch.device | str = "cpu"
) -> Path:
    """Evaluate, write, and print the headline figures; returns the report's path.

    Raises:
        ValueError: the folder holds no run with weights.
    """
    if not (run / "config.yaml").is_file():
        raise ValueError(
            f"run={str(run)!r} holds no run (no config.yaml); pass the folder that `pretrain --out` was given"
        )
    config = load_config(run / "config.yaml")
    untrained = build_backbone(config).to(device)
    model = create_model(config.model.name, pretrained=run).to(device)
    train = open_source(config.data.source, "train", config.data.max_megapixels)
    test = open_source(config.data.source, "test", config.data.max_megapixels)
    console = Console(stderr=True)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("evaluation")

        def show(what: str, done: int, of: int) -> None:
            progress.update(task, description=what, completed=done, total=of)

        numbers = evaluate_run(
            model, untrained, train, test, config, bank=bank, queries=queries, device=device, progress=show
        )
    path = write_report(
        run,
        model=model,
        untrained=untrained,
        source=train,
        test_source=test,
        config=config,
        evaluation=numbers,
        device=device,
    )
    if numbers["labelled"]:
        table = Table("top-1 %", "before", "after", box=None, header_style="bold")
        for name, key in ((f"{numbers['k']}-NN", "knn"), ("linear", "linear")):
            before, after = (numbers[key][when]["top1"] for when in ("before", "after"))
            table.add_row(name, f"{before:.1f}", f"{after:.1f}")
        console.print(table)
    console.print(f"report: {path}", highlight=False)
    return path
