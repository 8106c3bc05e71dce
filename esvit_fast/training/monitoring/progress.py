"""How a run shows itself: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from threading import Event, Thread
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ...parallel.precision import slow_precision
from ...text import counted
from ..step.trainer import Trainer


def make_reporter(console: Console | None = None) -> BarReporter | LineReporter:
    """A bar if standard error is a terminal, lines otherwise."""
    console = console or Console(stderr=True)
    return BarReporter(console) if console.is_terminal else LineReporter()


def summary(record: dict[str, Any]) -> str:
    """The figures of a training record that tell whether a run is well."""
    return (
        f"{_few_digits(record['images_per_s'])} images/s  data wait {record['data_wait_share']:.0%}  "
        f"loss {record['loss']:.3f}{_entropy(record)}"
    )


def alarm(record: dict[str, Any]) -> str:
    """A warning's record as a line."""
    return f"warning: {record['finding']} since step {record['since']:,}: {record['evidence']}; {record['remedy']}"


def _few_digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _entropy(record: dict[str, Any]) -> str:
    """The teacher's, of methods that have one."""
    entropy = record.get("teacher_entropy", record.get("region_teacher_entropy"))
    return "" if entropy is None else f"  teacher entropy {entropy:.2f}"


def _starting(trainer: Trainer) -> str:
    config, ranks = trainer.config, trainer.ranks
    steps, batch = counted(trainer.total_steps, "step"), counted(config.train.batch_size, "image")
    return (
        f"{config.model.name} on {config.data.source}: {steps} of {batch}, {trainer.epoch_samples:,} an epoch, "
        f"on {ranks.world_size} x {ranks.device} in {config.train.precision}"
        + (f", from step {trainer.step:,}" if trainer.step else "")
    )


def accuracy_line(record: dict[str, Any]) -> str:
    """k-NN while training, with the few images that it was measured on."""
    images = f"{record['queries']:,} images among {record['bank']:,}"
    return f"epoch {record['epoch']:.2f}: {record['k']}-NN top-1 {record['top1']:.1f} % ({images})"


class BarReporter:
    """A live bar with speed, time to go, loss, teacher entropy and k-NN accuracy; warnings stay above it, in yellow."""

    def __init__(self, console: Console):
        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("<"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.description}"),
            console=console,
        )
        self._knn = ""

    def start(self, trainer: Trainer) -> None:
        self.progress.console.print(_starting(trainer), highlight=False)
        if slow := slow_precision(trainer.config, trainer.ranks):
            self.progress.console.print(slow, style="yellow", highlight=False, markup=False)
        self.task = self.progress.add_task(
            "the first step is under way", total=trainer.total_steps, completed=trainer.step
        )
        self._begun = trainer.step
        self.progress.start()

    def step(self, step: int, record: dict[str, Any] | None) -> None:
        self.progress.update(self.task, completed=step)
        if record is not None:
            self.progress.update(self.task, description=summary(record) + self._knn)
        elif self._begun == step - 1:
            self.progress.update(self.task, description="")

    def knn(self, record: dict[str, Any]) -> None:
        self._knn = f"  k-NN {record['top1']:.1f} %"
        self.progress.console.print(accuracy_line(record), highlight=False)

    def warning(self, record: dict[str, Any]) -> None:
        self.progress.console.print(alarm(record), style="yellow", highlight=False, markup=False)

    def stop(self) -> None:
        self.progress.stop()


class LineReporter:
    """A line at the start, for every k-NN accuracy and warning, and at most every `seconds` for a training step; while
    the first step lasts longer, lines that say for how long, at ever longer intervals."""

    def __init__(self, seconds: float = 10.0):
        self.seconds, self._last = seconds, 0.0
        self._first = Event()

    def start(self, trainer: Trainer) -> None:
        self.total, self._begun, self._at = trainer.total_steps, trainer.step, time.monotonic()
        self._stepped = self._at
        self._first.clear()
        if trainer.step < trainer.total_steps:
            Thread(target=self._wait, args=(trainer.step + 1,), daemon=True).start()
        self._say(_starting(trainer))
        if slow := slow_precision(trainer.config, trainer.ranks):
            self._say(slow)

    def step(self, step: int, record: dict[str, Any] | None) -> None:
        self._first.set()
        now = self._stepped = time.monotonic()
        if record is not None and (now - self._last >= self.seconds or step == self.total):
            self._last = now
            self._say(f"step {step:,}/{self.total:,}  {summary(record)}")
        elif record is None and now - self._last >= 3 * self.seconds:  # steps are slow, records far apart
            self._last = now
            self._say(f"step {step:,}/{self.total:,}  {_few_digits((now - self._at) / (step - self._begun))} s a step")

    def knn(self, record: dict[str, Any]) -> None:
        now = time.monotonic()
        self._at, self._stepped = self._at + now - self._stepped, now  # no part of a step
        self._say(accuracy_line(record))

    def warning(self, record: dict[str, Any]) -> None:
        self._say(alarm(record))

    def _say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    def _wait(self, step: int) -> None:
        seconds = self.seconds
        while not self._first.wait(seconds):
            self._say(f"step {step:,}/{self.total:,}  under way for {_duration(time.monotonic() - self._at)}")
            seconds *= 1.5

    def stop(self) -> None:
        self._first.set()
