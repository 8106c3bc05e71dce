"""`esvit-fast eval knn`, `eval linear` and `eval correspondence`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from ..config import Config, DataConfig, load_config
from ..data import open_source, open_test
from ..errors import UserError
from ..evaluation import (
    Bench,
    EvalSettings,
    Result,
    evaluate_correspondence,
    evaluate_knn,
    evaluate_linear,
    evaluated_images,
    pictured_images,
    require_labels,
)
from ..evaluation.result import READS, K
from ..models import create_model
from ..models.weights import weights_facts
from ..training import build_backbone, pick_device
from . import bugs
from .options import Parser, UsageError
from .task_progress import task_progress

PROTOCOLS = {"knn": evaluate_knn, "linear": evaluate_linear, "correspondence": evaluate_correspondence}
_DEFAULTS = EvalSettings()
KEPT = "evaluations.jsonl"
"""Where a run keeps what was evaluated."""


COLUMNS: Mapping[str, Mapping[str, str]] = {
    "knn": {"k": "k", "top1": "top-1 %", "top5": "top-5 %"},
    "linear": {"learning_rate": "learning rate", "top1": "top-1 %", "top5": "top-5 %"},
    "correspondence": {
        "views": "views",
        "top10": "top-10 pairs %",
        "exact": "all %",
        "near": "all, one off %",
        "chance": "chance %",
    },
}
"""What is printed of the rows of each protocol, and how it is called."""


def eval(argv: Sequence[str]) -> int:
    """Evaluate a run's or a file's backbone."""
    args = _parser().parse_args(argv)
    args.device = pick_device(args.device)
    settings = _settings(args)
    networks, data = _subject(args)
    train = open_source(data.source, "train", data.max_megapixels)
    test = open_test(data.source, data.max_megapixels)
    if args.what == "correspondence":
        images = pictured_images(train, test)
    else:
        require_labels(train, f"eval {args.what}")
        images = evaluated_images(train, test, settings)
    with task_progress(Console(stderr=True)) as progress:
        result = PROTOCOLS[args.what](Bench(networks, images, settings, data.augment, args.device, progress))
    if args.json:
        print(json.dumps(result.tree(), indent=1))
    else:
        show(Console(), result)
    if (args.weights / "config.yaml").is_file():
        _keep(args.weights / KEPT, {"weights": weights_facts(args.weights), **result.tree()})
    return 0


def _settings(args: argparse.Namespace) -> EvalSettings:
    """Of the options that were given, all of which the protocol must read."""
    names = (field.name for field in dataclasses.fields(EvalSettings))
    chosen = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    for name, value in chosen.items():
        if name not in READS[args.what]:
            told = " ".join(map(str, value)) if isinstance(value, list) else value
            readers = " and ".join(f"`eval {protocol}`" for protocol, names in READS.items() if name in names)
            raise UsageError(f"{name}={told} is read by {readers}, not by `eval {args.what}`; leave it out")
    return EvalSettings(**chosen | ({"k": tuple(chosen["k"])} if "k" in chosen else {}))


def show(console: Console, result: Result) -> None:
    """Print the numbers of a result, and below them what they hang on."""
    columns, several = COLUMNS[result.protocol], len(result.numbers) > 1
    table = Table(*["weights"][: int(several)], *columns.values(), box=None, header_style="bold")
    for network, rows in result.numbers.items():
        for row in rows:
            table.add_row(*[network][: int(several)], *(_cell(name, row[key]) for key, name in columns.items()))
    console.print(table)
    for line in result.facts():
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _cell(column: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.2f}" if column.endswith("%") else f"{value:g}"


def _keep(file: Path, record: dict[str, Any]) -> None:
    """Append a result to those of the run, if that can be written: the numbers have been printed."""
    try:
        with open(file, "a") as opened:
            opened.write(json.dumps(record) + "\n")
    except OSError as error:
        print(f"not kept in {str(file)!r}: {error.strerror or error}", file=sys.stderr)


def _subject(args: argparse.Namespace) -> tuple[dict[str, nn.Module], DataConfig]:
    """The networks by name and where images come from, by a run's configuration or a file's metadata."""
    config, weights = Config(), args.weights
    if (weights / "config.yaml").is_file():
        bugs.belongs_to(weights)
        config = load_config(weights / "config.yaml")
        name, source = args.model or config.model.name, args.data or config.data.source
    else:
        name, source = args.model or weights_facts(weights).get("model"), args.data
    if name is None:
        raise UserError(f"--model is missing; {str(weights)!r} does not say which architecture it is of")
    if source is None:
        raise UserError(f"--data is missing; {str(weights)!r} is no run that would name it")
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, name=name), data=dataclasses.replace(config.data, source=source)
    )
    networks = {"trained": create_model(name, pretrained=weights)}
    if args.untrained:
        networks["untrained"] = build_backbone(config)
    return {which: model.to(args.device) for which, model in networks.items()}, config.data


def _parser() -> Parser:
    parser = Parser("eval", "What frozen features are worth.")
    parser.add_argument("what", choices=list(PROTOCOLS))
    parser.add_argument("weights", type=Path, help="a run, or a .safetensors file")
    parser.add_argument("--data", help="images with classes; for a run by default what it was trained on")
    parser.add_argument("--model", help="architecture of a .safetensors file that does not name its own")
    parser.add_argument("--untrained", action="store_true", help="random weights, too: those that a run started from")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    parser.add_argument("--size", type=int, help="side of the images in pixels; by default the model's native one")
    parser.add_argument("--k", type=int, nargs="+", help=f"neighbours (knn); by default {' '.join(map(str, K))}")
    for name, text in {
        "bank": "training images at most, 0: all",
        "queries": "test images at most, 0: all",
        "temperature": "of the neighbours' votes (knn)",
        "blocks": "last blocks whose tokens are pooled (linear)",
        "epochs": "of the classifiers (linear)",
        "pair_images": "images whose regions are matched, 0: all (correspondence)",
        "seed": "of the classifiers and of pairs of views",
    }.items():
        value = getattr(_DEFAULTS, name)
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(value), help=f"{text} ({value})")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser
