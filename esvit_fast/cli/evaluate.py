"""`esvit-fast eval`: a protocol, whose settings are its options."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table

from ..config import Config, DataConfig, load_config
from ..errors import UserError
from ..evaluation.catalog import get_protocol, list_protocols
from ..evaluation.protocol import Protocol
from ..evaluation.settings import Field, Settings, Shape, field_of, shapes
from . import bugs
from .options import Parser, UsageError
from .task_progress import task_progress

if TYPE_CHECKING:  # torch takes seconds to import, and neither --help nor a mistake needs it
    from torch import nn

    from ..evaluation import Result

KEPT = "evaluations.jsonl"
"""Where a run keeps what was evaluated."""


def eval(argv: Sequence[str]) -> int:
    """Evaluate a run's or a file's backbone."""
    args = _parser().parse_args(argv)
    settings = _settings(args)
    from ..data import open_source, open_test
    from ..evaluation import Bench, Task, evaluate
    from ..models.weights import weights_facts
    from ..training import pick_device

    args.device = pick_device(args.device)
    networks, data = _subject(args)
    task = Task(open_source(data.source, "train", data.max_megapixels), open_test(data.source, data.max_megapixels))
    with task_progress(Console(stderr=True)) as progress:
        result = evaluate(args.what, Bench(networks, data.augment, args.device, progress), task, settings)
    if args.json:
        print(json.dumps(result.tree(), indent=1))
    else:
        show(Console(), result)
    if (args.weights / "config.yaml").is_file():
        _keep(args.weights / KEPT, {"weights": weights_facts(args.weights), **result.tree()})
    return 0


class _Option(NamedTuple):
    """A setting as an option: the protocols that read it, and what each says of it."""

    shape: Shape
    readers: dict[str, Field]
    defaults: dict[str, Any]


def _offered() -> list[Protocol]:
    """The protocols whose rows can be printed."""
    return [protocol for protocol in list_protocols() if protocol.columns]


def _options() -> dict[str, _Option]:
    """Every setting of the protocols, by name.

    Raises:
        UsageError: two protocols, of which one is a plug-in's, have settings of one name and different types.
    """
    options: dict[str, _Option] = {}
    for protocol in _offered():
        known = shapes(protocol.Settings)
        for field in dataclasses.fields(protocol.Settings):
            option = options.setdefault(field.name, _Option(known[field.name], {}, {}))
            if option.shape != known[field.name]:
                raise UsageError(
                    f"setting {field.name!r} of protocol {protocol.name!r} is of another type than in "
                    f"{next(iter(option.readers))!r}; rename it"
                )
            option.readers[protocol.name] = field_of(field)
            option.defaults[protocol.name] = field.default
    return options


def _settings(args: argparse.Namespace) -> Settings:
    """Of the options that were given, all of which the protocol must read."""
    chosen = {}
    for name, option in _options().items():
        if (value := getattr(args, name)) is None:
            continue
        if args.what not in option.readers:
            told = " ".join(map(str, value)) if isinstance(value, list) else value
            readers = " and ".join(f"`eval {protocol}`" for protocol in option.readers)
            raise UsageError(f"{name}={told} is read by {readers}, not by `eval {args.what}`; leave it out")
        chosen[name] = tuple(value) if isinstance(value, list) else value
    return get_protocol(args.what).Settings(**chosen)


def show(console: Console, result: Result) -> None:
    """Print the numbers of a result, and below them what they hang on."""
    columns, several = dict(get_protocol(result.protocol).columns), len(result.numbers) > 1
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
    from ..models import create_model
    from ..models.weights import weights_facts
    from ..training import build_backbone

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
    offered = _offered()
    told = "\n".join(f"  {protocol.name:<16}{protocol.description}" for protocol in offered)
    parser = Parser(
        "eval",
        "What frozen features are worth.",
        epilog=f"protocols:\n{told}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=[protocol.name for protocol in offered])
    parser.add_argument("weights", type=Path, help="a run, or a .safetensors file")
    parser.add_argument("--data", help="images with classes; for a run by default what it was trained on")
    parser.add_argument("--model", help="architecture of a .safetensors file that does not name its own")
    parser.add_argument("--untrained", action="store_true", help="random weights, too: those that a run started from")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    for name, option in _options().items():
        parser.add_argument(f"--{name.replace('_', '-')}", help=_help(option).replace("%", "%%"), **_kind(option.shape))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


def _kind(shape: Shape) -> dict[str, Any]:
    """A type as argparse is told of it."""
    if shape.type is bool:
        return {"action": argparse.BooleanOptionalAction, "default": None}
    return {"type": shape.type, "choices": shape.choices or None, "nargs": "+" if shape.several else None}


def _help(option: _Option) -> str:
    """What the protocols say of a setting; which one, if it is the only one; and the default."""
    texts = " and ".join(dict.fromkeys(field.about for field in option.readers.values()))
    alone = f" ({next(iter(option.readers))})" if len(option.readers) == 1 else ""
    defaults = dict.fromkeys(_default(field, option.defaults[name]) for name, field in option.readers.items())
    return f"{texts}{alone}{' or'.join(defaults)}"


def _default(field: Field, value: Any) -> str:
    if value is None:
        return f"; by default {field.default_is}" if field.default_is else ""
    return f" ({' '.join(map(str, value)) if isinstance(value, tuple) else value})"
