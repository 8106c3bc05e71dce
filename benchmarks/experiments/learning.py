"""Train a recipe from scratch and record what it learned.

`python -m benchmarks.experiments.learning --recipe NAME --data SOURCE`

One JSON line per run goes to benchmarks/records/<device>/learning.jsonl: settings, time, 20-NN top-1 of the untrained
and the trained network and of raw pixels, over all images of both splits, and signs of collapse. A record's gate is
that the run took every step and that no task collapsed: teacher entropy away from 0 and ln K, loss below ln K.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.measuring.checkout import RECORDS
from benchmarks.measuring.records import append, provenance
from esvit_fast.config import Config, load_config, to_tree, validate
from esvit_fast.data import open_source
from esvit_fast.evaluation import evaluate_run
from esvit_fast.models import create_model
from esvit_fast.runs.metrics import read_metrics
from esvit_fast.training import build_backbone, pretrain, setup_distributed
from esvit_fast.training.monitoring.progress import LineReporter

WHEN = {"raw pixels": "pixels", "untrained": "before", "trained": "after"}
"""What records call the networks of an evaluation."""


def measure(config: Config, run: Path) -> dict:
    """Train, evaluate before and after, and return a record."""
    ranks = setup_distributed(config.train.device)
    outcome = pretrain(config, run, ranks, LineReporter(seconds=60))
    train, test = (open_source(config.data.source, split) for split in ("train", "test"))
    model = create_model(config.model.name, pretrained=run).to(ranks.device)
    results = evaluate_run(
        model, build_backbone(config).to(ranks.device), train, test, config.data.augment, device=ranks.device
    )

    def of(protocol: str, views: str | None = None) -> dict[str, dict]:
        """The row of each network, that of its views where rows have some."""
        result = results[protocol]
        return {
            WHEN[name]: dict(next((row for row in rows if row.get("views", "") == views), result.row(name)))
            for name, rows in result.numbers.items()
        }

    steps = [r for r in read_metrics(run / "metrics.jsonl") if r["kind"] == "train"]
    last, most = steps[-1], math.log(config.method.out_dim)
    entropies = [last[name] for name in ("teacher_entropy", "region_teacher_entropy") if name in last]
    losses = [last[name] for name in ("view_loss", "region_loss") if name in last]
    healthy = all(0.02 * most < entropy < 0.98 * most for entropy in entropies) and max(losses) < most
    return {
        **provenance(str(ranks.device), ranks.world_size),
        "gate": "pass" if healthy and outcome.step == outcome.total_steps and not outcome.signal else "fail",
        "train_seconds": round(outcome.seconds, 1),
        "steps": outcome.step,
        "images_seen": outcome.step * config.train.batch_size,
        "knn": {when: {key: row[key] for key in ("top1", "top5")} for when, row in of("knn").items()},
        "linear": {when: row["top1"] for when, row in of("linear").items()},
        "health": of("health"),
        "correspondence": of("correspondence", "crops"),
        "correspondence_published": of("correspondence", "published"),
        "bank": results["knn"].bank,
        "queries": results["knn"].queries,
        "ln_out_dim": most,
        "last_step": last,
        "curve": [(r["samples"], r["top1"]) for r in read_metrics(run / "metrics.jsonl") if r["kind"] == "knn"],
        "config": to_tree(config),
    }


def main() -> None:
    """Measure every seed, with both tasks or with views only."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--view-only", action="store_true", help="leave out the region task, as DINO does")
    parser.add_argument("--records", type=Path, default=RECORDS)
    args = parser.parse_args()
    for seed in args.seeds:
        config = load_config(args.recipe)
        method = replace(config.method, view_weight=1.0, region_weight=0.0) if args.view_only else config.method
        train, data = replace(config.train, seed=seed), replace(config.data, source=args.data)
        config = validate(replace(config, method=method, train=train, data=data))
        with tempfile.TemporaryDirectory() as folder:
            begin = time.monotonic()
            record = {"recipe": args.recipe, "view_only": args.view_only, "seed": seed} | measure(
                config, Path(folder) / "run"
            )
        record |= {"total_seconds": round(time.monotonic() - begin, 1)}
        # the folder that the data lie in is nobody's business
        record["config"]["data"]["source"] = Path(args.data).name
        file = append(record, "learning", args.records)
        knn = {name: f"{accuracy['top1']:.2f}" for name, accuracy in record["knn"].items()}
        print(f"gate {record['gate']}: 20-NN top-1 {knn}, {record['train_seconds']:.0f} s of training -> {file}")


if __name__ == "__main__":
    main()
