"""`esvit-fast eval knn` and `esvit-fast eval linear`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ..config import AugmentConfig, load_config
from ..data import open_source
from ..evaluation import extract_features, knn, linear_probe, require_labels
from ..evaluation.features import Features, split_labelled, subset
from ..evaluation.knn import check_k
from ..models import create_model
from ..training import pick_device


def eval(argv: Sequence[str]) -> int:
    """Evaluate a run's or a file's backbone."""
    parser = argparse.ArgumentParser("esvit-fast eval", description="Accuracy of frozen features.")
    parser.add_argument("what", choices=["knn", "linear"])
    parser.add_argument("weights", type=Path, help="a run, or a .safetensors file with --model")
    parser.add_argument("--data", help="images with classes; for a run by default what it was trained on")
    parser.add_argument("--model", help="architecture of a .safetensors file")
    parser.add_argument("--untrained", action="store_true", help="random weights instead, for comparison")
    parser.add_argument("--size", type=int, help="side of the images in pixels; by default the model's native one")
    parser.add_argument("--bank", type=int, default=0, help="training images at most, 0: all")
    parser.add_argument("--queries", type=int, default=0, help="test images at most, 0: all")
    parser.add_argument("--k", type=int, nargs="+", default=[10, 20, 100, 200], help="neighbours (knn)")
    parser.add_argument("--temperature", type=float, default=0.07, help="of the neighbours' votes (knn)")
    parser.add_argument("--blocks", type=int, default=4, help="last blocks whose tokens are pooled (linear)")
    parser.add_argument("--epochs", type=int, default=100, help="of the classifiers (linear)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    args = parser.parse_args(argv)
    args.device = pick_device(args.device)

    name, data, augment = args.model, args.data, AugmentConfig()
    if (args.weights / "config.yaml").is_file():
        config = load_config(args.weights / "config.yaml")
        name, data, augment = name or config.model.name, data or config.data.source, config.data.augment
    if name is None or data is None:
        missing = "--model" if name is None else "--data"
        raise ValueError(f"{missing} is missing; {str(args.weights)!r} is no run that would name it")
    torch.manual_seed(args.seed)
    model = create_model(name, pretrained=None if args.untrained else args.weights).to(args.device)
    bank, queries = _features(args, model, data, augment)

    if args.what == "knn":
        accuracies = knn(bank, queries, k=args.k, temperature=args.temperature, device=args.device)
        results = [{"k": k, **accuracy._asdict()} for k, accuracy in accuracies.items()]
    else:
        probe = linear_probe(bank, queries, epochs=args.epochs, seed=args.seed, device=args.device)
        results = [{"learning_rate": probe.learning_rate, "top1": probe.top1, "top5": probe.top5}]
    first = next(iter(results[0]))
    table = Table(first.replace("_", " "), "top-1 %", "top-5 %", box=None, header_style="bold")
    for result in results:
        table.add_row(f"{result[first]:g}", f"{result['top1']:.2f}", f"{result['top5']:.2f}")
    Console().print(table)
    if args.weights.is_dir() and not args.untrained:
        with open(args.weights / "evaluations.jsonl", "a") as file:
            facts = {"kind": args.what, "data": data, "bank": len(bank.labels), "queries": len(queries.labels)}
            file.writelines(json.dumps(facts | result) + "\n" for result in results)
    return 0


def _features(args: argparse.Namespace, model, data: str, augment: AugmentConfig) -> tuple[Features, Features]:
    train, test = open_source(data, "train"), open_source(data, "test")
    require_labels(train, f"eval {args.what}")
    sides = split_labelled(train, test)
    if sides[0][0] is sides[1][0]:
        print(f"data={data!r} has no test split of its own: a tenth of the images is held out", file=sys.stderr)
    chosen = [
        [rows[i] for i in subset(len(rows), n)] for (_, rows), n in zip(sides, (args.bank, args.queries), strict=True)
    ]
    if args.what == "knn":
        check_k(max(args.k), len(chosen[0]))
    features = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for what, (source, _), rows in zip(("bank", "queries"), sides, chosen, strict=True):
            task = progress.add_task(f"features of {what}", total=len(rows))
            features.append(
                extract_features(
                    model,
                    source,
                    size=args.size,
                    augment=augment,
                    blocks=args.blocks if args.what == "linear" else 0,
                    indices=rows,
                    device=args.device,
                    progress=lambda done, of, task=task: progress.update(task, completed=done),
                )
            )
    return features[0], features[1]
