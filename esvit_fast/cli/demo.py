"""`esvit-fast demo`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from ..config import load_config
from ..training import pretrain, resume
from .pretrain import run
from .report import make_report


def demo(argv: Sequence[str]) -> int:
    """Pretrain a small network on drawn images and write its report."""
    parser = argparse.ArgumentParser(
        "esvit-fast demo", description="Train a small network on drawn images and show what it learned, in minutes."
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the run")
    args = parser.parse_args(argv)
    config = load_config("sample")
    out = _free(args.out)
    begun = (out / "config.yaml").exists()
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
    """The first of out, out-2, out-3, … that holds no finished demo: an interrupted one is resumed."""
    return next(
        path
        for path in (out if i == 1 else out.with_name(f"{out.name}-{i}") for i in count(1))
        if not (path / "report.html").exists()
    )
