"""What `esvit-fast plan` predicts of a step, and what is then measured: memory and time, each in a process of its own.

A plan is made from steps of at most half as many images, so that what is predicted was never tried.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from benchmarks.measuring.checkout import ROOT
from benchmarks.measuring.gpu import on_gpu
from benchmarks.measuring.memory import peak_bytes, reserved_bytes, resident_growth
from benchmarks.measuring.records import provenance
from benchmarks.registry import Benchmark, Problem, register
from benchmarks.systems.step import PRECISIONS, configured
from esvit_fast.config import Config
from esvit_fast.parallel.ranks import Ranks
from esvit_fast.training.planning.calibration import calibrate, now
from esvit_fast.training.planning.dry_step import dry_step, noise
from esvit_fast.training.planning.memory import keep_freed_memory
from esvit_fast.training.planning.planner import around_tensors
from esvit_fast.training.step.trainer import Trainer

CASES = {
    "swin_nano_w4": ("sample", (64, 256)),
    "swin_tiny_w7": ("swin_tiny_w7", (8, 12)),
    "swin_small_w7": ("swin_tiny_w7", (4, 6)),
}
"""Models: the recipe that they are trained by, and the micro-batches that are predicted."""
ALLOWED = {"tensors": 0.1, "resident": 0.1, "seconds": 0.25}
"""Errors of a prediction that passes, relative to what is measured."""
_STEPS, _WARM_UP = 6, 2


def of_model(name: str, images: int, precision: str, device: str) -> Config:
    """The recipe of a case, for steps of so many images."""
    config = configured(CASES[name][0], images, precision, device)
    return replace(config, model=replace(config.model, name=name))


def predict(name: str, images: int, precision: str, device: str) -> dict[str, float]:
    """Tensors, resident bytes and seconds of a step."""
    ranks, tried = Ranks(0, 1, torch.device(device)), images // 2
    config = of_model(name, tried, precision, device)
    measured = calibrate(config, tried, ranks)
    fixed, overhead = around_tensors(config, measured, ranks)
    tensors = dry_step(config, images, ranks).peak
    return {
        "tensors": tensors,
        "resident": fixed + overhead * tensors,
        "seconds": measured.step_seconds(images),
        "tried": measured.images[-1],
    }


def steps(name: str, images: int, precision: str, device: str) -> dict[str, float]:
    """What a run of some steps takes: bytes by which the process grows, and the median of seconds."""
    config, taken = of_model(name, images, precision, device), []

    def run() -> None:
        trainer = Trainer(config, 1000 * images, Ranks(0, 1, torch.device(device)))
        for _ in range(_STEPS):
            batch, begin = noise(config, images), now(trainer.ranks.device)
            trainer.train_step([batch])
            taken.append(now(trainer.ranks.device) - begin)

    resident = reserved_bytes(run) if on_gpu(device) else resident_growth(run)
    return {"resident": resident, "seconds": statistics.median(taken[_WARM_UP:])}


def tensors(name: str, images: int, precision: str, device: str) -> dict[str, float]:
    """What torch's allocator gives out for two steps, at most at once."""
    config = of_model(name, images, precision, device)

    def run() -> None:
        trainer = Trainer(config, 1000 * images, Ranks(0, 1, torch.device(device)))
        for _ in range(2):
            trainer.train_step([noise(config, images)])

    return {"tensors": peak_bytes(run, device)}


def measure(names: Sequence[str], precision: str, device: str) -> dict:
    """A record of all cases."""
    rows = []
    for name in names:
        for images in CASES[name][1]:
            predicted = _apart("predict", name, images, precision, device)
            found = _apart("steps", name, images, precision, device)
            found |= _apart("tensors", name, images, precision, device)
            error = {key: predicted[key] / found[key] - 1 for key in ALLOWED}
            gate = "pass" if all(abs(error[key]) <= allowed for key, allowed in ALLOWED.items()) else "fail"
            row = {"model": name, "images": images, "gate": gate, "error": error}
            rows.append(row | {"predicted": predicted, "measured": found})
    return {"op": "planner", "dtype": precision, "cases": rows} | provenance(device)


def _apart(function: str, *arguments: object) -> dict:
    """Call a function of this file in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.systems.planner"]
    command += map(str, (torch.get_num_threads(), function, *arguments))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        why = done.stderr.splitlines() or [f"exit code {done.returncode}"]
        raise SystemExit(f"{' '.join(command)} failed: {why[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(record: dict) -> str:
    """A record for people to read."""
    lines = ["predicted, measured, error"]
    for row in record["cases"]:
        text = f"  {row['model']:14} {row['images']:4} images"
        for key, unit, scale in (("tensors", "MiB", 2**20), ("resident", "MiB", 2**20), ("seconds", "s", 1)):
            predicted, found = (row[which][key] / scale for which in ("predicted", "measured"))
            text += f"  {key} {predicted:.5g} {found:.5g} {unit} {row['error'][key]:+.1%}"
        lines.append(f"{text}  {row['gate']}")
    return "\n".join(lines)


def _problems(args: argparse.Namespace) -> Iterator[Problem]:
    for model in args.models:
        yield Problem({}, lambda names, model=model: measure([model], PRECISIONS[args.dtype], args.device))


register(
    Benchmark(
        "planner",
        "What a plan predicts of a step",
        __doc__,
        _problems,
        table,
        arguments={
            "--models": {"nargs": "+", "choices": [*CASES], "default": [*CASES]},
            "--batch": None,
            "--rounds": None,
            "--resume": None,
        },
        quick={"models": ["swin_nano_w4"]},
    )
)


if __name__ == "__main__":
    threads, function, name, images, precision, device = sys.argv[1:]
    torch.set_num_threads(int(threads))
    if not on_gpu(device):
        keep_freed_memory()  # as a run does
    call = {"predict": predict, "steps": steps, "tensors": tensors}[function]
    print(json.dumps(call(name, int(images), precision, device)))
