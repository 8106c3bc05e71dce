"""The curves of a run, from its metrics.jsonl."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from ..config import Config
from ..errors import UserError
from ..evaluation.features import log
from ..methods import method_of
from ..methods.method import Curves
from .svg import Mark, Series, line_chart

Row = dict[str, Any]


class Metrics(NamedTuple):
    """Lines of a metrics.jsonl by kind, in the order of their steps; of lines for the same the last one counts."""

    train: list[Row]
    knn: list[Row]
    warnings: list[Row]


KNN = Curves("k-NN while training", (("top1", "top-1"), ("top5", "top-5")), "%")
RATES = (
    Curves("Learning rate", (("lr", "learning rate"),)),
    Curves("Weight decay", (("weight_decay", "weight decay"),)),
)
COURSE = (
    Curves("Gradient norm", (("grad_norm", "norm"),), "before clipping"),
    Curves(
        "Rank of features",
        (("feature_rank", "effective rank"),),
        note="Of the trained backbone's features of at most 64 images of a batch; towards 1 they have collapsed.",
    ),
    Curves("Throughput", (("images_per_s", "images/s"),), "images/s"),
)


def read_metrics(path: Path) -> Metrics:
    """Read a run's metrics; lines that are not JSON, such as one cut off by a crash, are left out and logged.

    Raises:
        UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f"run_dir={str(path.parent)!r} has no {path.name}; pass the folder of a pretraining run")
    kinds: dict[str, dict[tuple[int, str], Row]] = {"train": {}, "knn": {}, "warning": {}}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            log.warning("%s line %d is not JSON and is left out", path, number)
            continue
        if row.get("kind") in kinds:
            kinds[row["kind"]][row["step"], row.get("finding", "")] = row
    return Metrics(*([rows[step] for step in sorted(rows)] for rows in kinds.values()))


def charts(metrics: Metrics, config: Config) -> tuple[str, str]:
    """HTML of the charts of what was learnt, and of those of how training went; charts without a value are left out."""
    method, few = method_of(config), config.eval
    note = f"A quick look: at most {few.knn_bank:,} training and {few.knn_queries:,} test images."
    outcome = [_draw(chart, metrics.train) for chart in method.outcome(config.method)]
    outcome.append(_draw(KNN._replace(note=note), metrics.knn))
    course = [_draw(chart, metrics.train) for chart in (*RATES, *method.course(config.method), *COURSE)]
    return "".join(filter(None, outcome)), "".join(filter(None, course))


def training_seconds(rows: list[Row]) -> float:
    """Time spent training, from the samples between the lines and their images/s; NaN if a line has no throughput."""
    seconds, before = 0.0, 0
    for row in rows:
        rate = row.get("images_per_s") or math.nan
        seconds, before = seconds + (row["samples"] - before) / rate, row["samples"]
    return seconds


def _draw(chart: Curves, rows: list[Row]) -> str:
    series = []
    for key, label in chart.names:
        points = [(row["samples"], row[key]) for row in rows if row.get(key) is not None]
        if any(math.isfinite(y) for _, y in points):
            series.append(Series(label, [x for x, _ in points], [y for _, y in points]))
    if not series:
        return ""
    marks = [Mark(*chart.mark)] if chart.mark else []
    return line_chart(chart.title, series, x_label="images seen", y_label=chart.unit, marks=marks, note=chart.note)
