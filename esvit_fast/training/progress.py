"""How a run shows itself: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..config import Config
from .distributed import Ranks
from .trainer import Trainer


def make_reporter(console: Console | None = None) -> BarReporter | LineReporter:
    """A bar if standard error is a terminal, lines otherwise."""
    console = console or Console(stderr=True)
    return BarReporter(console) if console.is_terminal else LineReporter()


def summary(record: dict[str, Any]) -> str:
    """The figures of a training record that tell whether a run is well."""
    return (
        f"{record['images_per_s']:.0f} images/s  data wait {record['data_wait_share']:.0%}  "
        f"loss {record['loss']:.3f}  teacher entropy {_entropy(record):.2f}"
    )


def alarm(record: dict[str, Any]) -> str:
    """A warning's record as a line."""
    return f"warning: {record['finding']} since step {record['since']:,}: {record['evidence']}; {record['remedy']}"


def slow_precision(config: Config, ranks: Ranks) -> str:
    """A warning in a line where another precision takes a fraction of the time; else nothing."""
    if config.train.precision != "fp16" or ranks.device.type != "cpu":
        return ""
    return "warning: train.precision=fp16 is slow on CPUs, which mostly compute in float32; pass --train.precision fp32"


def _entropy(record: dict[str, Any]) -> float:
    return record.get("teacher_entropy", record.get("region_teacher_entropy"))


def _starting(trainer: Trainer) -> str:
    config = trainer.config
    return (
        f"{config.model.name} on {config.data.source}: {trainer.total_steps:,} steps of {config.train.batch_size} "
        f"images, {trainer.epoch_samples:,} an epoch, on {trainer.ranks.world_size} x {trainer.ranks.device}"
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
            TimeRemainingColumn(compact=True),
            TextColumn("{task.description}"),
            console=console,
        )
        self._knn = ""

    def start(self, trainer: Trainer) -> None:
        self.progress.console.print(_starting(trainer), highlight=False)
        if slow := slow_precision(trainer.config, trainer.ranks):
            self.progress.console.print(slow, style="yellow", highlight=False, markup=False)
        self.task = self.progress.add_task("", total=trainer.total_steps, completed=trainer.step)
        self.progress.start()

    def step(self, step: int, record: dict[str, Any] | None) -> None:
        self.progress.update(self.task, completed=step)
        if record is not None:
            self.progress.update(self.task, description=summary(record) + self._knn)

    def knn(self, record: dict[str, Any]) -> None:
        self._knn = f"  k-NN {record['top1']:.1f} %"
        self.progress.console.print(accuracy_line(record), highlight=False)

    def warning(self, record: dict[str, Any]) -> None:
        self.progress.console.print(alarm(record), style="yellow", highlight=False, markup=False)

    def stop(self) -> None:
        self.progress.stop()


class LineReporter:
    """A line at the start, for every k-NN accuracy and warning, and at most every `seconds` for a training step."""

    def __init__(self, seconds: float = 10.0):
        self.seconds, self._last = seconds, 0.0

    def start(self, trainer: Trainer) -> None:
        self.total = trainer.total_steps
        self._say(_starting(trainer))
        if slow := slow_precision(trainer.config, trainer.ranks):
            self._say(slow)

    def step(self, step: int, record: dict[str, Any] | None) -> None:
        if record is not None and (time.monotonic() - self._last >= self.seconds or step == self.total):
            self._last = time.monotonic()
            self._say(f"step {step:,}/{self.total:,}  {summary(record)}")

    def knn(self, record: dict[str, Any]) -> None:
        self._say(accuracy_line(record))

    def warning(self, record: dict[str, Any]) -> None:
        self._say(alarm(record))

    def _say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Nothing to end."""
