"""Kill ranks and launchers at random moments and see that a run trains on.

`python -m benchmarks.experiments.faults --kills 100`

A small run on drawn images, in several processes under torchrun on the CPU, is killed (SIGKILL) while it starts, trains
or writes a checkpoint: one rank, all ranks, or torchrun with them, which is then started again as a scheduler would.
After each kill: seconds until the first step that is new in metrics.jsonl, and steps that were logged and lost. Runs
that reach their end must have the weights and metrics of one that nobody killed, bit for bit. The record's gate is
that they have, that no kill took longer than --seconds, and that none lost more than a checkpoint interval.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.measuring.checkout import RECORDS, ROOT
from benchmarks.measuring.records import append, provenance
from esvit_fast.config import Config, CropConfig, DataConfig, ModelConfig, TrainConfig, save_config
from esvit_fast.methods.esvit_settings import EsViTSettings
from esvit_fast.runs.checkpoint import load_latest
from esvit_fast.runs.metrics import read_metrics

VICTIMS = ("rank", "ranks", "launcher")
INTERVAL = 5
CONFIG = Config(
    model=ModelConfig("swin_nano_w4", drop_path_rate=0.1),
    method=EsViTSettings(out_dim=64, head_hidden_dim=64, head_bottleneck_dim=16),
    data=DataConfig("sample:500", workers=1, crops=CropConfig(16, (0.4, 1.0), (8,), (2,), (0.1, 0.4))),
    train=TrainConfig(
        batch_size=8, epochs=1, warmup_epochs=0.1, checkpoint_every_steps=INTERVAL, log_every_steps=1, device="cpu"
    ),
)
"""62 steps with every kind of randomness."""
_PATIENCE = 300.0
_TIMES = ("images_per_s", "data_wait_share")


class Kill(NamedTuple):
    """A SIGKILL: whom and when, seconds until training went on, and steps that were logged and lost.

    The last two are None if another kill came before it went on.
    """

    victim: str
    moment: str
    seconds: float | None = None
    lost: int | None = None


class Launch:
    """torchrun with a run; what it says is kept beside the run's folder."""

    def __init__(self, run: Path, recipe: Path, ranks: int):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts", "1000"]
        call = ["--nproc-per-node", str(ranks), "-m", "esvit_fast", "pretrain", "--recipe", str(recipe)]
        with run.with_suffix(".log").open("ab") as said:
            self.process = subprocess.Popen(
                [*torchrun, *call, "--out", str(run), "--resume"],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=said,
                stderr=said,
            )

    @property
    def ended(self) -> bool:
        """Whether the run is complete.

        Raises:
            RuntimeError: it has failed.
        """
        code = self.process.poll()
        if code:
            raise RuntimeError(f"torchrun ended with {code}; see the log beside the run")
        return code == 0

    def ranks(self) -> list[int]:
        """Process ids of the ranks that live. Linux only."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return sorted(int(pid) for task in tasks for pid in _read(task).split())

    def kill(self, victim: str, chance: random.Random) -> None:
        """End a rank, all ranks, or everything at once."""
        doomed = self.ranks()
        if victim == "rank" and doomed:
            doomed = [chance.choice(doomed)]
        if victim == "launcher":
            doomed.append(self.process.pid)
        for pid in doomed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if victim == "launcher":
            self.process.wait()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the process has ended
        return b""


class Watch:
    """When metrics.jsonl has a line that is newer than this: resuming replaces the file, then it grows."""

    def __init__(self, run: Path):
        self.file = run / "metrics.jsonl"
        self.replaced, self.kept = self._look()[0], None if self._look()[0] else 0

    def _look(self) -> tuple[int, int]:
        try:
            found = self.file.stat()
        except FileNotFoundError:
            return 0, 0
        return found.st_ino, found.st_size

    def went_on(self) -> bool:
        """Whether a step has been logged since."""
        inode, size = self._look()
        if inode == self.replaced:
            return False
        if self.kept is None:
            self.kept = size
        return size > self.kept


def _until(what: Callable[[], bool], launch: Launch) -> bool:
    """Wait for something; False if the run is complete before."""
    deadline = time.monotonic() + _PATIENCE
    while not what():
        if launch.ended:
            return False
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing happened for {_PATIENCE:.0f} s; see the log beside the run")
        time.sleep(0.005)
    return True


def _logged(run: Path) -> int:
    """The last step in the metrics."""
    file = run / "metrics.jsonl"
    return max((record["step"] for record in read_metrics(file)), default=0) if file.exists() else 0


def _saved(run: Path) -> int:
    """The step of the newest checkpoint, by its name."""
    return max((int(path.name[5:]) for path in (run / "checkpoints").glob("step_*")), default=0)


def disturb(run: Path, recipe: Path, ranks: int, chance: random.Random, most: int) -> list[Kill]:
    """Take a run to its end with at most so many kills, each of them at a random moment."""
    kills: list[Kill] = []
    launch, watch, begin, logged, going = Launch(run, recipe, ranks), Watch(run), 0.0, 0, False
    try:
        while True:
            moment = chance.choice(["start", "step", "step", "checkpoint"]) if len(kills) < most else "end"
            if not (going or moment == "start"):
                if not _until(watch.went_on, launch):
                    break
                if kills:
                    kills[-1] = kills[-1]._replace(seconds=time.monotonic() - begin, lost=logged - _saved(run))
                    print("{:>8} at {:<10} {:5.1f} s, {} steps lost".format(*kills[-1]), flush=True)
                going, logged = True, 0
            at = time.monotonic() + chance.uniform(0, 4.0 if moment == "start" else 1.0)
            ready = {"checkpoint": lambda: any((run / "checkpoints").glob(".tmp-step_*")), "end": lambda: False}
            if not _until(ready.get(moment, lambda at=at: time.monotonic() >= at), launch):
                break
            victim = chance.choice(VICTIMS)
            logged = max(logged, _logged(run))
            watch, begin, going = Watch(run), time.monotonic(), False
            launch.kill(victim, chance)
            kills.append(Kill(victim, moment))
            if victim == "launcher":
                launch = Launch(run, recipe, ranks)
    finally:
        launch.kill("launcher", chance)
    return kills


def same(one: Path, other: Path) -> bool:
    """Whether two complete runs have the same weights, optimiser state and metrics, bit for bit."""
    a, b = (load_latest(run / "checkpoints") for run in (one, other))
    lines = [
        [{k: v for k, v in r.items() if k not in _TIMES} for r in read_metrics(run / "metrics.jsonl")]
        for run in (one, other)
    ]
    equal = a.tensors.keys() == b.tensors.keys() and all(torch.equal(x, b.tensors[k]) for k, x in a.tensors.items())
    return equal and lines[0] == lines[1]


def measure(count: int, ranks: int, seed: int, seconds: float, folder: Path) -> dict:
    """Kill so many times, in as many runs as that takes, and return a record."""
    chance, kills, equal, runs = random.Random(seed), [], True, 0
    recipe, calm = folder / "recipe.yaml", folder / "calm"
    save_config(CONFIG, recipe)
    disturb(calm, recipe, ranks, chance, 0)
    while len(kills) < count:
        run = folder / f"run{runs}"
        kills += disturb(run, recipe, ranks, chance, count - len(kills))
        equal, runs = equal and same(calm, run), runs + 1
    took = [kill.seconds for kill in kills if kill.seconds is not None]
    lost = [kill.lost for kill in kills if kill.lost is not None]
    return {
        **provenance("cpu", ranks),
        "gate": "pass" if equal and max(took) <= seconds and max(lost) <= INTERVAL else "fail",
        "seed": seed,
        "kills": len(kills),
        "victims": dict(Counter(kill.victim for kill in kills)),
        "moments": dict(Counter(kill.moment for kill in kills)),
        "seconds": {"p50": round(statistics.median(took), 2), "max": round(max(took), 2), "allowed": seconds},
        "lost_steps": {"mean": round(statistics.mean(lost), 2), "max": max(lost), "interval": INTERVAL},
        "runs": runs,
        "steps": _logged(calm),
        "equal": equal,
    }


def table(record: dict) -> str:
    """What a record says."""
    took, lost = record["seconds"], record["lost_steps"]
    return (
        f"gate {record['gate']}: {record['kills']} kills ({record['victims']}, {record['moments']}) "
        f"of {record['runs']} runs on {record['environment']['world_size']} ranks\n"
        f"trains on after {took['p50']:.1f} s (median), {took['max']:.1f} s (most; {took['allowed']:.0f} allowed)\n"
        f"steps lost: {lost['mean']:.1f} (mean), {lost['max']} (most; a checkpoint every {lost['interval']})\n"
        f"weights and metrics of the runs {'equal' if record['equal'] else 'DIFFER FROM'} those of one without kills"
    )


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0, help="in which it must train on")
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--dry", action="store_true", help="record nothing")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = measure(args.kills, args.ranks, args.seed, args.seconds, Path(folder))
    print(table(record))
    if not args.dry:
        append(record, "faults", args.records)


if __name__ == "__main__":
    main()
