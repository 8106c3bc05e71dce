"""What is written of a training step."""

from __future__ import annotations

import time
from typing import Any

import torch

from ...data import CorruptionLog
from ...parallel.ranks import all_reduce_sum
from ..step.late import Late
from ..step.trainer import StepResult, Trainer
from .signals import RANK_IMAGES, feature_rank, signals


class Clock:
    """Images per second, and the share of time spent waiting for them, since it was last read."""

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self.begin, self.steps, self.waited = time.monotonic(), 0, 0.0

    def wait(self) -> None:
        """Waiting for images begins."""
        self._waiting = time.monotonic()

    def work(self) -> None:
        """Images are here, a step begins."""
        self.waited += time.monotonic() - self._waiting
        self.steps += 1

    def read(self) -> dict[str, float]:
        """Both figures; begins anew."""
        seconds = time.monotonic() - self.begin
        rates = {"images_per_s": self.steps * self.batch_size / seconds, "data_wait_share": self.waited / seconds}
        self.restart()
        return rates


def position(trainer: Trainer) -> dict[str, float]:
    """How far a run is."""
    return {"step": trainer.step, "samples": trainer.samples, "epoch": trainer.epoch}


class Record:
    """What is written of one step, losses and statistics averaged over ranks; all ranks make it.

    Attributes:
        due: the step after which it is read, as the device has come to it then.
    """

    def __init__(self, trainer: Trainer, result: StepResult, clock: Clock, corrupt: CorruptionLog):
        self.due, point = trainer.step + trainer.lag, result.point
        mean = all_reduce_sum(torch.stack(list(result.values.values()))) / trainer.ranks.world_size
        found = signals(trainer, result)
        self.names = [*result.values, "grad_norm", *found]
        self.values = Late(torch.cat([mean, torch.stack([result.grad_norm, *found.values()])]))
        self.features = Late(result.features[:RANK_IMAGES])
        self.where = {"kind": "train", **position(trainer)}
        self.corrupt_images = len(corrupt.failed)
        self.schedule = {
            "lr": point.learning_rate,
            "weight_decay": point.weight_decay,
            **{name: value for name, value in point.method._asdict().items() if not isinstance(value, bool)},
            **clock.read(),
        }

    def read(self, trainer: Trainer) -> dict[str, Any]:
        """The record, for which the device is waited to come to its step."""
        trainer.settle(trainer.step - self.where["step"])
        return {
            **self.where,
            **dict(zip(self.names, self.values.read().tolist(), strict=True)),
            "feature_rank": feature_rank(self.features.read()),
            "skipped_steps": trainer.skipped,
            "corrupt_images": self.corrupt_images,
            **self.schedule,
        }
