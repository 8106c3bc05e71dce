"""The curves of a run, from its metrics.jsonl."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from ..config import Config
from ..evaluation.features import log
from .svg import Mark, Series, line_chart

Row = dict[str, Any]


class Metrics(NamedTuple):
    """Lines of a metrics.jsonl by kind, in the order of their steps; of lines for the same the last one counts."""

    train: list[Row]
    knn: list[Row]
    warnings: list[Row]


class Chart(NamedTuple):
    """A chart to draw: the metrics that are its curves, with their names."""

    title: str
    curves: tuple[tuple[str, str], ...]
    unit: str = ""
    ceiling: bool = False
    """Mark ln K, the entropy of a uniform teacher."""
    note: str = ""


OUTCOME = (
    Chart(
        "Loss",
        (("loss", "total"), ("view_loss", "view"), ("region_loss", "region")),
        "nats",
        True,
        "A loss that stays at ln K has not started to learn, or has collapsed to the uniform answer.",
    ),
    Chart(
        "Entropy of the teacher",
        (("teacher_entropy", "view"), ("region_teacher_entropy", "region"), ("marginal_entropy", "mean of the batch")),
        "nats",
        True,
        "Healthy: single answers are sharp (low) while the mean of the batch stays spread (high).",
    ),
)
KNN = Chart("k-NN while training", (("top1", "top-1"), ("top5", "top-5")), "%")
COURSE = (
    Chart("Learning rate", (("lr", "learning rate"),)),
    Chart("Weight decay", (("weight_decay", "weight decay"),)),
    Chart("Teacher temperature", (("teacher_temp", "temperature"),)),
    Chart("Teacher momentum", (("teacher_momentum", "momentum"),)),
    Chart("Gradient norm", (("grad_norm", "norm"),), "before clipping"),
    Chart(
        "Rank of features",
        (("feature_rank", "effective rank"),),
        note="Of the student's features of at most 64 images of a batch; towards 1 they have collapsed.",
    ),
    Chart("Throughput", (("images_per_s", "images/s"),), "images/s"),
)


def read_metrics(path: Path) -> Metrics:
    """Read a run's metrics; lines that are not JSON, such as one cut off by a crash, are left out and logged.

    Raises:
        ValueError: there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"run_dir={str(path.parent)!r} has no {path.name}; pass the folder of a pretraining run")
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
    entropy, few = math.log(config.method.out_dim), config.eval
    ceiling = Mark(f"ln K = {entropy:.2f}", entropy)
    note = f"A quick look: at most {few.knn_bank:,} training and {few.knn_queries:,} test images."
    knn = KNN._replace(note=note)
    outcome = [_draw(chart, metrics.train, ceiling) for chart in OUTCOME] + [_draw(knn, metrics.knn, ceiling)]
    course = [_draw(chart, metrics.train, ceiling) for chart in COURSE]
    return "".join(filter(None, outcome)), "".join(filter(None, course))


def training_seconds(rows: list[Row]) -> float:
    """Time spent training, from the samples between the lines and their images/s; NaN if a line has no throughput."""
    seconds, before = 0.0, 0
    for row in rows:
        rate = row.get("images_per_s") or math.nan
        seconds, before = seconds + (row["samples"] - before) / rate, row["samples"]
    return seconds


def _draw(chart: Chart, rows: list[Row], ceiling: Mark) -> str:
    series = []
    for key, label in chart.curves:
        points = [(row["samples"], row[key]) for row in rows if row.get(key) is not None]
        if any(math.isfinite(y) for _, y in points):
            series.append(Series(label, [x for x, _ in points], [y for _, y in points]))
    if not series:
        return ""
    marks = [ceiling] if chart.ceiling else []
    return line_chart(chart.title, series, x_label="images seen", y_label=chart.unit, marks=marks, note=chart.note)
