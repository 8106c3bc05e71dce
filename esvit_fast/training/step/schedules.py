"""Learning rate, weight decay, teacher momentum and temperature as pure functions of the images seen so far.

The rules are the published ones (DINO, arXiv 2104.14294, section 3, and its code, which EsViT, arXiv 2106.09785,
shares), with samples for steps, so that they do not depend on how a batch is divided over ranks and accumulation steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ...config import Config


@dataclass(frozen=True)
class SchedulePoint:
    """What one optimiser step needs to know of the schedules."""

    learning_rate: float
    weight_decay: float
    teacher_momentum: float
    teacher_temp: float
    freeze_last_layer: bool


def total_steps(config: Config, epoch_samples: int) -> int:
    """Optimiser steps of a run over `epoch_samples` images: the epochs rounded to whole steps, at least one.

    Raises:
        ValueError: `epoch_samples` is not positive.
    """
    if epoch_samples < 1:
        raise ValueError(f"epoch_samples={epoch_samples} must be at least 1; the data source is empty")
    return max(1, round(config.train.epochs * epoch_samples / config.train.batch_size))


def schedule(config: Config, epoch_samples: int) -> Callable[[int], SchedulePoint]:
    """The schedules of a run as a function of the images seen before a step, over all ranks.

    The learning rate rises linearly from 0 to ``learning_rate * batch_size / 256`` over the warm-up, then falls on a
    cosine to `min_learning_rate`; weight decay and momentum follow cosines over the whole run; past the end all stay.
    As published, the first step has rate 0 (without warm-up it has the peak), and an epoch's teacher temperature is one
    of ``linspace(start, final, ceil(warmup_epochs))``; ``teacher_temp_schedule="sample"`` makes it linear in samples
    instead. The cosines equal the published ones at every step. The published warm-up reaches its peak one step earlier
    (its linspace includes the end), so that it is higher by at most peak / warm-up steps.

    Raises:
        ValueError: `epoch_samples` is not positive.
    """
    train, method = config.train, config.method
    total = total_steps(config, epoch_samples) * train.batch_size
    warmup = train.warmup_epochs * epoch_samples
    peak = train.learning_rate * train.batch_size / 256

    def point(samples: int) -> SchedulePoint:
        progress = samples / total
        return SchedulePoint(
            learning_rate=peak * samples / warmup
            if samples < warmup
            else _cosine(peak, train.min_learning_rate, (samples - warmup) / max(1.0, total - warmup)),
            weight_decay=_cosine(train.weight_decay, train.weight_decay_end, progress),
            teacher_momentum=_cosine(method.teacher_momentum, 1.0, progress),
            teacher_temp=_teacher_temp(config, samples, epoch_samples),
            freeze_last_layer=samples < train.freeze_last_layer_epochs * epoch_samples,
        )

    return point


def _cosine(start: float, end: float, progress: float) -> float:
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(1.0, progress)))


def _teacher_temp(config: Config, samples: int, epoch_samples: int) -> float:
    method = config.method
    if method.teacher_temp_schedule == "sample":
        position, end = float(samples), method.teacher_temp_warmup_epochs * epoch_samples
    else:
        epoch, warmup = samples // epoch_samples, math.ceil(method.teacher_temp_warmup_epochs)
        # a linspace of one value is its start
        position, end = (float(epoch), warmup - 1.0) if warmup > 1 else (float(epoch), float(warmup))
    if position >= end:
        return method.teacher_temp
    return method.teacher_temp_start + (method.teacher_temp - method.teacher_temp_start) * position / end
