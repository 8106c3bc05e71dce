"""`esvit-fast demo`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from ..config import ConfigError, load_config
from . import bugs
from .options import Parser
from .pretrain import run

MARK = "demo"
"""An empty file that tells the folder of a demo from that of another run."""


def demo(argv: Sequence[str]) -> int:
    """Pretrain a small network on drawn images and write its report."""
    parser = Parser("demo", "Train a small network on drawn images and show what it learned, in minutes.")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the run (%(default)s)")
    args = parser.parse_args(argv)
    from ..training import pretrain, resume
    from ..training.start import check_folder
    from .report import make_report

    config = load_config("sample")
    out = _free(args.out)
    if out != args.out:
        print(f"{args.out} holds a finished demo or another run; this demo goes to {out}", file=sys.stderr)
    bugs.belongs_to(out)
    begun = (out / "config.yaml").exists()
    check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()
    code = run(
        lambda ranks, reporter: resume(out, ranks, reporter) if begun else pretrain(config, out, ranks, reporter),
        out,
        config.train.device,
    )
    if code == 0:
        make_report(out)
        print(f"open {(out / 'report.html').resolve().as_uri()}", file=sys.stderr)
    return code


def _free(out: Path) -> Path:
    """The first of out, out-2, … that holds neither a finished demo nor another run; one cut short is resumed."""
    paths = (out if i == 1 else out.with_name(f"{out.name}-{i}") for i in count(1))
    return next(
        path
        for path in paths
        if not (path / "report.html").exists()
        and ((path / MARK).exists() or not (path / "config.yaml").exists() or _has_the_settings(path / "config.yaml"))
    )


def _has_the_settings(file: Path) -> bool:
    """Whether a run has those of a demo, which earlier versions did not mark; a start settles its precision."""
    try:
        found, own = load_config(file), load_config("sample")
    except ConfigError:
        return False
    return replace(found, train=replace(found.train, precision=own.train.precision)) == own
