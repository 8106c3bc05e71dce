"""`esvit-fast data check`, `data pack` and `data preview`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..config import Config, DataConfig, load_config, recipe_names, validate
from ..data import open_source, open_splits, warning_of
from ..data.sources.account import account_of, findings, printable, report_of
from ..data.tools.check import Survey, copies_between
from ..data.tools.pack import PackSettings
from ..data.tools.pack import pack as write_shards
from ..data.tools.preview import preview as draw
from ..errors import UserError
from ..text import counted
from .options import Parser
from .settings import add_settings, changed

_SOURCE = "images: a folder, list, archive, shards, … (see data.source of a recipe)"
_SHOWN = 10
_DEFAULTS = DataConfig()


def data(argv: Sequence[str]) -> int:
    """Check, pack or look at a source."""
    parser = Parser("data", "Look after a set of images.")
    parser.add_argument("what", choices=["check", "pack", "preview"], help="each has its own --help")
    if not argv or argv[0] in ("-h", "--help"):
        parser.print_help()
        return 0 if argv else 2
    what = parser.parse_args(argv[:1]).what
    return {"check": check, "pack": pack, "preview": preview}[what](argv[1:])


def check(argv: Sequence[str]) -> int:
    """Read every image and say what is there and what is wrong; 1 if a run would stop over it."""
    parser = _parser(
        "check", "Read every image: unreadable files, sizes, classes, copies. Exit code 1: a run would stop."
    )
    parser.add_argument("--json", action="store_true", help="all findings as JSON")
    args = _checked(parser.parse_args(argv))
    splits = open_splits(args.source, args.max_megapixels)
    surveys, reports = {}, {}
    for split, source in splits.items():
        with _progress(f"reading {split}", len(source)) as progress:
            surveys[split] = Survey(source, args.workers, progress)
        reports[split] = surveys[split].report(args.max_corrupt_share)
    if len(surveys) == 2 and (count := copies_between(surveys["train"], surveys["test"])):
        reports["test"]["remarks"].append(f"{count:,} test images are copies of training images: accuracy is flattered")
        reports["test"]["verdict"] = max("usable", reports["test"]["verdict"], key=_VERDICTS.index)
    account = account_of(next(iter(splits.values())))
    told = findings(account)
    for report in reports.values():
        report["remarks"] = [*told, *report["remarks"]]
        report["verdict"] = max("usable" if told else "good", report["verdict"], key=_VERDICTS.index)
    worst = max((report["verdict"] for report in reports.values()), key=_VERDICTS.index)
    if args.json:
        print(json.dumps({"source": args.source, "verdict": worst, **report_of(account), "splits": reports}, indent=1))
    else:
        for number, (split, report) in enumerate(reports.items()):
            report["remarks"] = report["remarks"][len(told) if number else 0 :]  # once is enough
            _show(args.source if split == "all" else f"{args.source}, {split}", report, account.layout)
    return int(worst == "unusable")


_VERDICTS = ("good", "usable", "unusable")


def pack(argv: Sequence[str]) -> int:
    """Write a source as shards."""
    parser = _parser("pack", "Write images as .tar shards (WebDataset), in their order, with their labels.")
    parser.add_argument("out", type=Path, help="a new folder, or one where this command was interrupted")
    defaults = PackSettings()
    parser.add_argument("--shard-size", type=float, default=defaults.shard_size, help="MiB (%(default)g)")
    parser.add_argument(
        "--short-side", type=int, default=defaults.short_side, help="reduce larger images to this; 0: keep all bytes"
    )
    parser.add_argument(
        "--quality", type=int, default=defaults.quality, help="of JPEGs made by --short-side (%(default)d)"
    )
    args = _checked(parser.parse_args(argv))
    for name, is_right, range_ in (
        ("shard_size", args.shard_size > 0, "greater than 0"),
        ("short_side", args.short_side >= 0, "0 or more"),
        ("quality", 1 <= args.quality <= 100, "between 1 and 100"),
    ):
        if not is_right:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name):g} must be {range_}")
    settings = PackSettings(args.shard_size, args.short_side, args.quality)
    splits = open_splits(args.source, args.max_megapixels)
    if line := warning_of(next(iter(splits.values()))):
        print(line, file=sys.stderr)
    for split, source in splits.items():
        out = args.out if split == "all" else args.out / split
        with _progress(f"packing {split}", len(source)) as progress:
            card = write_shards(
                source,
                out,
                settings,
                workers=args.workers,
                max_corrupt_share=args.max_corrupt_share,
                progress=progress,
            )
        size = sum(shard["bytes"] for shard in card["shards"])
        skipped = f"; {len(card['skipped']):,} could not be read: see shards.json" if card["skipped"] else ""
        shards = counted(len(card["shards"]), "shard")
        print(f"{out}: {counted(card['images'], 'image')} in {shards}, {_bytes(size)}{skipped}")
    return 0


def preview(argv: Sequence[str]) -> int:
    """Draw the crops of a few images."""
    parser = _parser("preview", "Draw the crops and augmentations that a recipe makes of a run's first images.", False)
    parser.add_argument("--recipe", default="swin_tiny_w7", help=f"a YAML file, or one of {', '.join(recipe_names())}")
    parser.add_argument("--out", type=Path, default=Path("preview.png"), help="the picture (%(default)s)")
    parser.add_argument("--count", type=int, default=4, help="images (%(default)d)")
    parser.epilog = "Every setting of the recipe can be changed, as in --data.crops.global-size 160 or --train.seed 1."
    add_settings(parser)
    args = parser.parse_args(argv)
    config = changed(load_config(args.recipe), args.settings)
    if args.count < 1:
        raise UserError(f"--count {args.count} must be 1 or more")
    source = open_source(args.source, "train", config.data.max_megapixels)
    name = Path(args.recipe).stem
    picture = draw(source, config, min(args.count, len(source)), f"{name} on {Path(args.source).name or args.source}")
    try:
        picture.save(args.out)
    except ValueError:
        raise UserError(f"--out {args.out} must end in .png, .jpg or .webp") from None
    print(f"{args.out}: {picture.width} x {picture.height} pixels")
    return 0


def _parser(what: str, description: str, reads_all: bool = True) -> Parser:
    parser = Parser(f"data {what}", description)
    parser.add_argument("source", help=_SOURCE)
    if reads_all:
        parser.add_argument("--workers", type=int, default=-1, help="processes; -1: one per core but one, 0: this one")
        parser.add_argument("--max-megapixels", type=float, default=_DEFAULTS.max_megapixels, help="(%(default)g)")
        parser.add_argument(
            "--max-corrupt-share",
            type=float,
            default=_DEFAULTS.max_corrupt_share,
            help="share of unreadable images above which a run stops (%(default)g)",
        )
    return parser


def _checked(args: argparse.Namespace) -> argparse.Namespace:
    """What the settings of the same names must be."""
    validate(
        Config(
            data=DataConfig(
                workers=args.workers, max_megapixels=args.max_megapixels, max_corrupt_share=args.max_corrupt_share
            )
        )
    )
    return args


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    bars = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    console = Console(stderr=True)
    with Progress(*bars, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


def _show(title: str, report: dict[str, Any], layout: str) -> None:
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=None, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # a path is shown whole
    if layout:
        table.add_row("layout", printable(layout))
    table.add_row("images", f"{report['images']:,}, {_bytes(report['bytes'])}")
    for name, unit in (("width", " px"), ("height", " px"), ("short_side", " px"), ("megapixels", ""), ("aspect", "")):
        if name in report:
            low, middle, high = (f"{report[name][point]:,.4g}" for point in ("min", "median", "max"))
            spread = f"{low}{unit}" if low == high else f"{low} to {high}{unit}, median {middle}"
            table.add_row(name.replace("_", " "), spread)
    for name in ("formats", "modes"):
        table.add_row(name, ", ".join(f"{kind} {count:,}" for kind, count in report[name].items()))
    table.add_row("classes", _classes(report["classes"]))
    for name in ("copies", "look_alikes"):
        count, examples = report[name]["count"], report[name]["examples"]
        lines = [f"{count:,}", *(" and ".join(_short(path) for path in pair) for pair in examples[:3])]
        table.add_row(name.replace("_", " "), "\n".join(lines))
    if unreadable := report["unreadable"]:
        lines = [f"{entry['path']}: {entry['why']}" for entry in unreadable[:_SHOWN]]
        more = [f"and {len(unreadable) - _SHOWN:,} more; --json lists all"] if len(unreadable) > _SHOWN else []
        table.add_row("unreadable", "\n".join([f"{len(unreadable):,}", *lines, *more]))
    table.add_row("verdict", "\n".join([report["verdict"], *(f"- {remark}" for remark in report["remarks"])]))
    console = Console()
    console.print(table, markup=False, highlight=False)
    console.print()


def _classes(classes: dict[str, Any] | None) -> str:
    if classes is None:
        return "none"
    counts = classes["images"]
    low, high = counts[classes["smallest"]], counts[classes["largest"]]
    each = (
        f"{counted(low, 'image')} each"
        if low == high
        else f"{low:,} ({classes['smallest']}) to {high:,} ({classes['largest']})"
    )
    unlabelled = f"; {counted(classes['unlabelled'], 'image')} without one" if classes["unlabelled"] else ""
    return f"{classes['count']:,}, {each}{unlabelled}"


def _short(path: str) -> str:
    return "/".join(path.rsplit("/", 2)[-2:])


def _bytes(count: int) -> str:
    unit = next((unit for unit in ("B", "KiB", "MiB", "GiB") if count < 1024 or not (count := count / 1024)), "TiB")
    return f"{count:.4g} {unit}"
