"""report.html: what a run has learnt, in one file that needs nothing else."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from ..config import Config, to_tree
from ..data import Source
from ..errors import UserError
from ..evaluation.catalog import get_protocol
from ..evaluation.presentation import Card, Comparison, Grid
from ..evaluation.result import Result
from ..evaluation.settings import ImageSettings
from ..evaluation.targets import subset
from ..evaluation.task import Task
from ..methods import method_of
from . import pictures
from .curves import Metrics, charts, read_metrics, training_seconds
from .pictures import Models
from .style import CSS
from .svg import Bar, Mark, bar_chart

GALLERY_BANK = 1_000
NETWORKS = {"raw pixels": "plain", "untrained": "before", "trained": "after"}
"""In the order of their bars, with the tones of these."""
IMAGES = 6


def write_report(
    run_dir: Path,
    *,
    model: nn.Module,
    untrained: nn.Module,
    source: Source,
    test_source: Source | None,
    config: Config,
    evaluation: Mapping[str, Result] | None,
    path: Path | None = None,
    device: str | torch.device = "cpu",
) -> Path:
    """Write `report.html` into a run directory, from its metrics.jsonl and environment.json and from both backbones.

    Without classes, the parts that need them are left out and the page says so.

    Args:
        model, untrained: the trained backbone and one of the same architecture with random weights.
        evaluation: what `evaluate_run` gives; None leaves its numbers out.
        path: where to write it instead.

    Raises:
        UserError: the folder has no metrics.jsonl, no image can be read, or the page cannot be written.
    """
    run_dir, models = Path(run_dir), Models(untrained, model)
    metrics = read_metrics(run_dir / "metrics.jsonl")
    environment = _read_json(run_dir / "environment.json")
    task = Task(source, test_source)
    shown = task.shown.source
    images = pictures.readable(shown, range(len(shown)), IMAGES)
    if not images:
        raise UserError(f"source={shown.name!r}: none of the images tried can be read; check that the files are whole")
    augment, arrays = config.data.augment, [image for _, image in images]
    for one in models:
        one.to(device)
    outcome, course = charts(metrics, config)
    sections = [
        _warnings(metrics),
        _results(evaluation),
        _curves("Learning", "What the loss and the teacher's answers did, over images seen.", outcome),
        _section("Crops, as the model sees them", _CROPS, pictures.crops(source, config)),
        _attention(models, arrays, config, device),
        _section("Region correspondence", _LINKS, pictures.region_links(models, images[::2], augment, device)),
        _gallery(models, task, augment, device),
        _comparisons(evaluation),
        _curves("Course of training", "Schedules and speed, over images seen.", course),
        _section("The run", "", _details(environment, config, evaluation)),
    ]
    title = f"{config.model.name} on {_short_name(source.name)}"
    page = _page(title, _header(title, metrics, environment, source, config), "".join(sections))
    path = run_dir / "report.html" if path is None else Path(path)
    _write(path, page.encode("utf-8", "backslashreplace"))  # names of files may be no text
    return path


def _attention(models: Models, images: Sequence[Any], config: Config, device: str | torch.device) -> str:
    """Left out for backbones without attention."""
    body = pictures.attention(models, images, config.data.augment, device)
    return _section("Attention", _ATTENTION, body) if body else ""


def _write(path: Path, page: bytes) -> None:
    """Write a whole page or none; UserError if it cannot be."""
    half = path.with_name(f".{path.name}.half")
    try:
        half.write_bytes(page)
        half.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            half.unlink()
        raise UserError(
            f"path={str(path)!r} cannot be written ({error.strerror}); make room, or write the page elsewhere: --out"
        ) from None


_CROPS = (
    "Images of the first batch after cropping and augmentation, before normalisation. The student sees all views, the "
    "teacher only the global ones. If you cannot tell what a global view shows, the augmentation is too strong."
)
_ATTENTION = (
    "How much attention each place receives in the last block, averaged over heads, relative to the average place. "
    "Both models share one scale."
)
_LINKS = (
    "Two views of one image. Each line leads from a region of the left view to the region of the right view whose "
    "features are most similar; geometry says which one is right. Lines are spread evenly over the regions that both "
    "views show. First as published, the second view mirrored and without colors; then two crops that keep them."
)


def _page(title: str, header: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body>{header}<main>{body}</main>"
        "<footer>Written by esvit_fast. It loads nothing from elsewhere.</footer></body></html>\n"
    )


def _section(title: str, text: str, body: str) -> str:
    lead = f"<p>{escape(text)}</p>" if text else ""
    return f"<section><h2>{escape(title)}</h2>{lead}{body}</section>\n"


def _curves(title: str, text: str, figures: str) -> str:
    return _section(title, text, f'<div class="charts">{figures}</div>') if figures else ""


def _header(title: str, metrics: Metrics, environment: Mapping[str, Any], source: Source, config: Config) -> str:
    last = metrics.train[-1] if metrics.train else {}
    samples, seconds = last.get("samples", 0), training_seconds(metrics.train)
    classes = f"{len(source.classes)} classes, not used for training" if source.classes else "without classes"
    title_of_method = method_of(config).title(config.method)
    lead = f"Pretrained without labels with {title_of_method} on {len(source):,} images ({classes})."
    facts = {
        "images seen": f"{samples:,}",
        "epochs": f"{last.get('epoch', 0):.4g}",
        "training time": duration(seconds),
        "images per second": f"{samples / seconds:,.0f}" if seconds > 0 else "unknown",
        "batch": f"{config.train.batch_size}",
        "precision": _precision(config, environment),
        "device": str(environment.get("device", config.train.device)),
        "seed": f"{config.train.seed}",
    }
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    return (
        f'<header><p class="kicker">esvit_fast &middot; pretraining report</p><h1>{escape(title)}</h1>'
        f'<p class="lead">{escape(lead)}</p><dl class="facts">{items}</dl></header>'
    )


def _precision(config: Config, environment: Mapping[str, Any]) -> str:
    """In which the run ran: its settings say it, unless they are from before what auto became was kept."""
    asked = config.train.precision
    return asked if asked != "auto" else str(environment.get("precision", "auto; what that became was not kept"))


def _warnings(metrics: Metrics) -> str:
    if not metrics.warnings:
        return ""
    body = "".join(
        f"<tr><td>{escape(row['finding'])}<small>since step {row['since']:,}</small></td>"
        f"<td>{escape(row['evidence'])}</td><td>{escape(row['remedy'])}</td></tr>"
        for row in metrics.warnings
    )
    table = f"<table><tr><th>found</th><th>by</th><th>what to change</th></tr>{body}</table>"
    text = "What the run's doctor found while it trained. A run that has collapsed is begun again with other settings."
    return _section("Warnings", text, f'<div class="card scroll warned">{table}</div>')


def _results(evaluation: Mapping[str, Result] | None) -> str:
    if evaluation is None:
        return _section("Results", "This report was written without an evaluation; `esvit-fast eval` makes one.", "")
    shown = [(get_protocol(name).card(result), result) for name, result in evaluation.items()]
    cards = "".join(_card(card, result) for card, result in shown if card)
    return _section("Results", _results_text(evaluation), f'<div class="cards">{cards}</div>')


def _results_text(evaluation: Mapping[str, Result]) -> str:
    """What the first protocol over drawn images says of these; the others say the same."""
    drawn = (one for name, one in evaluation.items() if issubclass(get_protocol(name).Settings, ImageSettings))
    remarks = (f"{remark[0].upper()}{remark[1:]}." for result in list(drawn)[:1] for remark in result.remarks)
    return " ".join(["Trained weights against random weights of the same architecture.", *remarks])


def _card(card: Card, result: Result) -> str:
    values = {network: result.row(network)[card.key] for network in NETWORKS if network in result.numbers}
    bars = [Bar(network, value, NETWORKS[network]) for network, value in values.items()]
    gain = values["trained"] - values["untrained"]
    change = f"<em{'' if gain >= 0 else ' class=down'}>{sign(gain)} points</em>"
    chance = None if card.chance is None else Mark("chance", card.chance)
    return (
        f'<div class="card"><h3>{escape(card.title)}</h3>'
        f'<p class="big">{values["trained"]:.1f}<small>%</small>{change}</p>'
        f'{bar_chart(bars, mark=chance)}<p class="foot">{escape(card.note)}</p></div>'
    )


def _gallery(models: Models, task: Task, augment: Any, device: str | torch.device) -> str:
    source, sides = task.train, task.sides
    if sides is None:
        asked = subset(len(source), IMAGES)
        others = sorted(set(range(len(source))) - set(asked)) or asked
        sides = (source, others), (source, asked)
    (bank, rows), (queries, query_rows) = sides
    rows = [rows[i] for i in subset(len(rows), GALLERY_BANK)]
    chosen = [i for i, _ in pictures.readable(queries, query_rows, IMAGES)]
    text = f"Images and the most similar of {len(rows):,} training images, by cosine similarity of pooled features."
    text += " Green frames have the query's class, red ones another." if source.classes else ""
    return _section(
        "Nearest neighbours", text, pictures.neighbours(models, (bank, rows), (queries, chosen), augment, device)
    )


def _comparisons(evaluation: Mapping[str, Result] | None) -> str:
    tables = ((get_protocol(name).comparison, result) for name, result in (evaluation or {}).items())
    return "".join(_comparison(table, result) for table, result in tables if table)


def _comparison(table: Comparison, result: Result) -> str:
    both = [result.row(network) for network in ("untrained", "trained")]
    body = "".join(
        f"<tr><td>{escape(name)}<small>{escape(why)}</small></td>"
        f"{''.join(_number(form.format(**one)) for one in both)}</tr>"
        for name, why, form in table.rows
    )
    drawn = f'<table><tr><th></th><th class="n">untrained</th><th class="n">trained</th></tr>{body}</table>'
    return _section(table.title, table.text, f'<div class="card scroll">{drawn}</div>')


def _details(environment: Mapping[str, Any], config: Config, evaluation: Mapping[str, Result] | None) -> str:
    blocks = []
    for result in (evaluation or {}).values():
        body = f"<div>{_protocol(result)}</div>"
        blocks.append((f"Protocol: {result.protocol}", body))
    if environment:
        pairs = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in flatten(environment))
        blocks.append(("Environment", f'<div class="scroll"><table>{pairs}</table></div>'))
    blocks.append(("Configuration", f"<pre>{escape(yaml.safe_dump(to_tree(config), sort_keys=False))}</pre>"))
    if evaluation is not None:
        tree = {protocol: result.tree() for protocol, result in evaluation.items()}
        blocks.append(("All numbers of the evaluation", f"<pre>{escape(json.dumps(tree, indent=2))}</pre>"))
    return "".join(f"<details><summary>{title}</summary>{body}</details>" for title, body in blocks)


def _protocol(result: Result) -> str:
    """What a result hangs on, and its numbers."""
    facts = "".join(f"<li>{escape(line)}</li>" for line in result.facts())
    rows = [{"weights": network, **row} for network, rows in result.numbers.items() for row in rows]
    names = [name for name, value in rows[0].items() if isinstance(value, (str, int, float))]
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{escape(_text(row[name]))}</td>' for name in names)}</tr>" for row in rows)
    grid = get_protocol(result.protocol).grid(result.row())
    return f"<ul>{facts}</ul><table><tr>{head}</tr>{body}</table>{_grid(grid) if grid else ''}"


def _text(value: Any) -> str:
    return (
        f"{value:.2f}"
        if isinstance(value, float) and value >= 1
        else f"{value:.4g}"
        if isinstance(value, float)
        else f"{value}"
    )


def _grid(grid: Grid) -> str:
    """A table whose first column names its rows."""
    first, *others = grid.columns
    head, rows = "".join(f'<th class="n">{escape(name)}</th>' for name in others), []
    for number, (name, *cells) in enumerate(grid.rows):
        css = ' class="chosen"' if number == grid.chosen else ""
        rows.append(f"<tr{css}><td>{escape(name)}</td>{''.join(map(_number, cells))}</tr>")
    note = f"<p>{escape(grid.note)}</p>" if grid.note else ""
    return f"<table><tr><th>{escape(first)}</th>{head}</tr>{''.join(rows)}</table>{note}"


def _number(text: str) -> str:
    return f'<td class="n">{escape(text)}</td>'


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Leaves of nested mappings as (dotted name, text)."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def sign(value: float) -> str:
    """A difference with one decimal and a typographic sign."""
    return f"{value:+.1f}".replace("-", "\u2212")


def duration(seconds: float) -> str:
    """Seconds as 45 s, 12 min, 3 h 20 min or 2 d 4 h."""
    if not math.isfinite(seconds):
        return "unknown"
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours < 36 else f"{hours // 24} d {hours % 24} h"


def _read_json(path: Path) -> Mapping[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _short_name(name: str) -> str:
    return Path(name).name or name
