"""Does the doctor name collapses, and only those? `python -m benchmarks.experiments.collapse --data CIFAR10_FOLDER`.

Three settings that collapse and three that do not train for 200 steps each; one JSON line with what was found goes to
benchmarks/records/<device>/collapse.jsonl, and `--dry` only prints. The gate: every collapse is named as what it is,
and nothing is said of the others. `--series FILE` keeps the statistics that the tests of the diagnostics replay.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measuring.checkout import RECORDS
from benchmarks.measuring.records import append, provenance
from esvit_fast.config import Config, load_config, to_tree, validate
from esvit_fast.methods.esvit_settings import EsViTSettings
from esvit_fast.runs.metrics import read_metrics
from esvit_fast.training import pretrain, setup_distributed
from esvit_fast.training.monitoring.progress import LineReporter

STEPS = 200
BASE = load_config("cifar10_swin_nano")
PUBLISHED = EsViTSettings(
    out_dim=4096, head_hidden_dim=512, head_bottleneck_dim=64, teacher_temp=0.04, teacher_temp_warmup_epochs=0
)
"""The published method, mean centering and all, at the recipe's size."""


class Case(NamedTuple):
    """A setting, and what is to be found: the kind of a finding, or None."""

    method: EsViTSettings
    expected: str | None = None
    rate: float = 1.0
    seed: int = 0


CASES = {
    "teacher temperature 0.2": Case(replace(PUBLISHED, teacher_temp=0.2, teacher_temp_start=0.2), "uniform collapse"),
    "no centering": Case(replace(PUBLISHED, center_momentum=1.0), "single-prototype collapse"),
    "learning rate x30": Case(PUBLISHED, "dimensional collapse", rate=30.0),
    "mean centering": Case(PUBLISHED),
    "sinkhorn": Case(BASE.method),
    "views alone": Case(replace(BASE.method, view_weight=1.0, region_weight=0.0), seed=1),
}
QUANTITIES = (
    *("step", "epoch", "view_loss", "region_loss", "teacher_entropy", "region_teacher_entropy", "marginal_entropy"),
    *("region_marginal_entropy", "prototypes_used", "region_prototypes_used", "grad_norm", "skipped_steps"),
    *("feature_rank", "update_ratio", "teacher_temp", "center_norm", "region_center_norm"),
    *("match_similarity", "match_margin", "match_repeated"),
)
"""What the diagnostics read."""


def config_of(case: Case, source: str) -> Config:
    """The recipe with 64 images a step, a short warm-up, and what makes the case; schedules are the whole run's."""
    train = replace(
        BASE.train,
        batch_size=64,
        learning_rate=case.rate * BASE.train.learning_rate,
        warmup_epochs=0.04 if case.method.centering == "mean" else BASE.train.warmup_epochs,
        seed=case.seed,
    )
    data = replace(BASE.data, source=source)
    return validate(
        replace(BASE, method=case.method, data=data, train=train, eval=replace(BASE.eval, knn_every_epochs=0))
    )


class _Enough(Exception):
    """The steps that were asked for are done."""


class _Reporter(LineReporter):
    def __init__(self, steps: int):
        super().__init__(seconds=60)
        self.steps = steps

    def step(self, step: int, record: dict[str, Any] | None) -> None:
        super().step(step, record)
        if step > self.steps:  # what the last one shows is told after this
            raise _Enough


def measure(case: Case, source: str, steps: int) -> tuple[dict, list[dict]]:
    """Train for some steps; what was found, and the records."""
    config, begin = config_of(case, source), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        with suppress(_Enough):
            pretrain(config, Path(folder) / "run", setup_distributed(config.train.device), _Reporter(steps))
        records = [r for r in read_metrics(Path(folder) / "run" / "metrics.jsonl") if r["step"] <= steps]
    found = [
        {key: r[key] for key in ("finding", "step", "since", "evidence", "remedy")}
        for r in records
        if r["kind"] == "warning"
    ]
    kinds = [warning["finding"] for warning in found]
    result = {
        "gate": "pass" if kinds[:1] == ([case.expected] if case.expected else []) else "fail",
        "expected": case.expected,
        "findings": found,
        "steps": steps,
        "train_seconds": round(time.monotonic() - begin, 1),
        "config": to_tree(replace(config, data=replace(config.data, source=Path(source).name))),
    }
    return result, [r for r in records if r["kind"] == "train"]


def table(cases: dict[str, dict]) -> str:
    """A line for every case, and one for each of its findings."""
    lines = []
    for name, result in cases.items():
        lines.append(f"{name}: {result['gate']}, {'nothing found' if not result['findings'] else 'found'}")
        lines += [
            f"  step {w['step']}: {w['finding']} since {w['since']}: {w['evidence']}; {w['remedy']}"
            for w in result["findings"]
        ]
    return "\n".join(lines)


def series(records: list[dict]) -> dict[str, list]:
    """What the diagnostics read of records, four digits of each number."""
    columns = {name: [record[name] for record in records] for name in QUANTITIES if name in records[0]}
    return {n: [v if v is None or isinstance(v, int) else float(f"{v:.4g}") for v in c] for n, c in columns.items()}


def main() -> None:
    """Train all cases, or some."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CIFAR-10, as the recipe wants it")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--dry", action="store_true", help="record nothing")
    parser.add_argument("--series", type=Path, help="write the statistics of the cases to this file")
    parser.add_argument("--records", type=Path, default=RECORDS)
    args = parser.parse_args()
    results, kept = {}, {}
    for name in args.cases:
        results[name], records = measure(CASES[name], args.data, args.steps)
        kept[name] = series(records)
        print(table({name: results[name]}), flush=True)
    if args.series:
        lines = (
            f'"{name}": {{\n' + ",\n".join(f'"{n}": {json.dumps(c)}' for n, c in c.items()) + "\n}"
            for name, c in kept.items()
        )
        args.series.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    if not args.dry:
        gate = "pass" if all(result["gate"] == "pass" for result in results.values()) else "fail"
        print(
            append(
                {**provenance(str(setup_distributed(BASE.train.device).device)), "gate": gate, "cases": results},
                "collapse",
                args.records,
            )
        )


if __name__ == "__main__":
    main()
