"""Kill or stop single processes of a run and see that the rest ends.

`python -m benchmarks.experiments.kills --kills 200`

A small run on drawn images, alone with two workers or on two ranks under torchrun with a worker each, loses a process
that is drawn from all it consists of: torchrun, ranks, the training process, workers. Within --seconds nothing of it
may be alive, whoever is left must have said why in one line of ours without a traceback, and the same command with
--resume must go on. With --stops, a worker or a rank is stopped (SIGSTOP) for --pause seconds instead, and nothing may
be lost. A run that has come to its end so must have the weights and metrics of one that was left alone, bit for bit,
current model.safetensors, and nothing that a writer left. Linux only.
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
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count as count_up
from pathlib import Path
from typing import NamedTuple

from benchmarks.experiments.faults import CONFIG, same
from benchmarks.measuring.checkout import ROOT
from esvit_fast.config import save_config
from esvit_fast.models.weights import load_weights
from esvit_fast.runs.checkpoint import load_latest

LONE = [sys.executable, "-m", "esvit_fast", "pretrain", "--data.workers", "2"]
RANKS = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *LONE[1:4]]
COMMANDS = {"alone": LONE, "ranks": RANKS}
_PATIENCE = 300.0
_OF_A_RUN = 8


class Process(NamedTuple):
    """A process, with its start, as numbers are given away again."""

    pid: int
    born: str
    kind: str


class Fault(NamedTuple):
    """What was done to whom and when, seconds until all had ended, the exit code, and what is wrong with that."""

    mode: str
    victim: str
    moment: str
    seconds: float
    code: int | None
    wrong: str


def family(pid: int) -> list[Process]:
    """A process and all below it."""
    found = [_process(pid)]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                found += family(int(child))
    return [process for process in found if process is not None]


def _process(pid: int) -> Process | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        parent = Path(f"/proc/{stat[1]}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    if stat[0] == "Z":
        return None
    kind = "torchrun" if b"torch.distributed.run" in command else "worker" if command == parent else "main"
    return Process(pid, stat[19], kind)


def alive(processes: list[Process]) -> list[Process]:
    """Those that are still there."""
    return [process for process in processes if _process(process.pid) in (process, process._replace(kind="main"))]


class Launch:
    """A run that is under way; what it says is kept beside its folder."""

    def __init__(self, mode: str, run: Path, recipe: Path):
        self.mode, self.run, self.log = mode, run, run.with_suffix(".log")
        self.said = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMANDS[mode], "--recipe", str(recipe), "--out", str(run), "--resume"],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
            )

    def text(self) -> str:
        """What it has said."""
        return self.log.read_bytes()[self.said :].decode(errors="replace")

    def wait_for(self, moment: str, chance: random.Random) -> bool:
        """Let time pass until a moment; False if the run has ended before."""
        end = time.monotonic() + _PATIENCE
        went_on = moment == "start"
        until = time.monotonic() + chance.uniform(0, 8.0) if went_on else None
        while time.monotonic() < end:
            if self.process.poll() is not None:
                return False
            if not went_on and "\nstep " in "\n" + self.text():
                went_on, until = True, time.monotonic() + chance.uniform(0, 2.0)
            unfinished = moment == "checkpoint" and any((self.run / "checkpoints").glob(".tmp-step_*"))
            if until is not None and (time.monotonic() >= until or unfinished):
                return True
            time.sleep(0.002)
        raise RuntimeError(f"nothing happened for {_PATIENCE:.0f} s; see {self.log}")

    def end(self) -> None:
        """Kill what is left of it."""
        for process in family(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        self.process.wait()


def kill(launch: Launch, moment: str, chance: random.Random, seconds: float) -> Fault:
    """Kill one process and watch the others end."""
    everyone = family(launch.process.pid)
    victim = chance.choice(everyone)
    begin = time.monotonic()
    with suppress(ProcessLookupError):
        os.kill(victim.pid, signal.SIGKILL)
    left = everyone
    while left and time.monotonic() - begin < seconds:
        time.sleep(0.02)
        launch.process.poll()  # else it stays as a zombie
        left = alive(everyone)
    took, wrong = time.monotonic() - begin, []
    if left:
        wrong.append(f"alive after {seconds:.0f} s: {left}")
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
    code = launch.process.wait()
    if code == 0:  # it was complete, or had just become so
        return Fault(launch.mode, victim.kind, moment, took, code, "; ".join(wrong))
    text = launch.text()
    # a process that is killed says nothing, and so do its workers; torchrun has a traceback and a table of its own
    ours = [line for line in text.splitlines() if line.startswith("esvit-fast: error: ")]
    survivors = {process.kind for process in everyone if process != victim} - {"worker", "torchrun"}
    if survivors and not ours and "SIGTERM" not in text:
        wrong.append("nobody said why")
    if len(ours) > 1:
        wrong.append(f"said {len(ours)} times")
    if _is_traced(text):
        wrong.append("a traceback")
    return Fault(launch.mode, victim.kind, moment, took, code, "; ".join(wrong))


def _is_traced(text: str) -> bool:
    """Whether there is a traceback but that with which torchrun tells of ranks that failed."""
    return text.count("Traceback (") > text.count("torch.distributed.elastic.multiprocessing.errors.ChildFailedError")


def stop(launch: Launch, moment: str, chance: random.Random, pause: float) -> Fault:
    """Stop one process for a while, and let it go on."""
    everyone = [process for process in family(launch.process.pid) if process.kind != "torchrun"]
    victim = chance.choice(everyone)
    with suppress(ProcessLookupError):
        os.kill(victim.pid, signal.SIGSTOP)
    time.sleep(pause)
    wrong = "" if launch.process.poll() in (None, 0) else f"ended with {launch.process.poll()}"
    with suppress(ProcessLookupError):
        os.kill(victim.pid, signal.SIGCONT)
    return Fault(launch.mode, f"stopped {victim.kind}", moment, pause, launch.process.poll(), wrong)


def left_over(run: Path) -> list[str]:
    """What is wrong with the folder of a run that is complete."""
    found = [f"left: {path.name}" for path in run.rglob("*") if path.name.startswith((".tmp", ".old", "run.lock"))]
    saved, (weights, facts) = load_latest(run / "checkpoints"), load_weights(run / "model.safetensors")
    teacher = {name: saved.tensors[f"method.teacher.backbone.{name}"] for name in weights}
    if facts["step"] != str(saved.step) or any(not t.equal(teacher[name]) for name, t in weights.items()):
        found.append(f"model.safetensors is of step {facts['step']}, the checkpoint of {saved.step}")
    return found


def faults(folder: Path, count: int, stops: int, seed: int, seconds: float, pause: float) -> Iterator[Fault]:
    """Do so much to as many runs as that takes."""
    chance, recipe, number = random.Random(seed), folder / "recipe.yaml", 0
    save_config(replace(CONFIG, train=replace(CONFIG.train, epochs=2)), recipe)
    for mode in COMMANDS:
        calm = Launch(mode, folder / mode, recipe)
        if calm.process.wait():
            raise RuntimeError(f"a run that nobody disturbs failed: {calm.text()}")
    todo = ["kill"] * count + ["stop"] * stops
    chance.shuffle(todo)
    while todo:
        mode, run = list(COMMANDS)[number % 2], folder / f"run{number}"
        number += 1
        for turn in count_up():
            launch = Launch(mode, run, recipe)
            moment = chance.choice(["start", "step", "step", "checkpoint"])
            try:
                if todo and turn < _OF_A_RUN and launch.wait_for(moment, chance):
                    act, limit = (kill, seconds) if todo.pop() == "kill" else (stop, pause)
                    yield act(launch, moment, chance, limit)
                launch.process.wait(_PATIENCE)
                if launch.process.returncode == 0:
                    break
            finally:
                launch.end()
        wrong = left_over(run) + ([] if same(folder / mode, run) else ["differs from a run that was left alone"])
        yield Fault(mode, "none", "end", 0.0, 0, "; ".join(wrong))


def main() -> None:
    """Do it, print each, and exit with 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--stops", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=30.0, help="in which all must have ended")
    parser.add_argument("--pause", type=float, default=60.0, help="for which a process is stopped")
    parser.add_argument("--keep", type=Path, help="a folder for the runs, which is kept")
    args = parser.parse_args()
    done = []
    with tempfile.TemporaryDirectory() as folder:
        where = args.keep or Path(folder)
        where.mkdir(parents=True, exist_ok=True)
        for fault in faults(where, args.kills, args.stops, args.seed, args.seconds, args.pause):
            done.append(fault)
            print("{:6} {:15} {:10} {:5.1f} s  code {}  {}".format(*fault), flush=True)
    killed = [fault for fault in done if fault.victim != "none" and not fault.victim.startswith("stopped")]
    bad = [fault for fault in done if fault.wrong]
    print(f"{len(killed)} kills {dict(Counter(f'{f.mode} {f.victim}' for f in killed))}, ", end="")
    if killed:
        took = [fault.seconds for fault in killed]
        print(f"all ended after {statistics.median(took):.1f} s (median), {max(took):.1f} s (most); ", end="")
    complete = sum(fault.victim == "none" for fault in done)
    print(f"{args.stops} stops of {args.pause:g} s; {complete} runs complete; {len(bad)} bad")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
