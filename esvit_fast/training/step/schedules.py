"""Learning rate, weight decay and a method's own numbers as pure functions of the images seen so far.

The rules are the published ones (DINO, arXiv 2104.14294, section 3, and its code, which EsViT, arXiv 2106.09785,
shares), with samples for steps, so that they do not depend on how a batch is divided over ranks and accumulation steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...config import Config
from ...errors import UserError
from ...methods import method_of
from ...methods.schedules import cosine


@dataclass(frozen=True)
class SchedulePoint:
    """What one optimizer step needs to know of the schedules.

    Attributes:
        method: the numbers of the method, its `Point`.
    """

    learning_rate: float
    weight_decay: float
    method: Any


def total_steps(config: Config, epoch_samples: int) -> int:
    """Optimiser steps of a run over `epoch_samples` images: the epochs rounded to whole steps, at least one.

    Raises:
        UserError: `epoch_samples` is not positive.
    """
    if epoch_samples < 1:
        raise UserError(f"epoch_samples={epoch_samples} must be at least 1; the data source is empty")
    return max(1, round(config.train.epochs * epoch_samples / config.train.batch_size))


def schedule(config: Config, epoch_samples: int) -> Callable[[int], SchedulePoint]:
    """The schedules of a run as a function of the images seen before a step, over all ranks.

    The learning rate rises linearly from 0 to ``learning_rate * batch_size / 256`` over the warm-up, then falls on a
    cosine to `min_learning_rate`; weight decay follows a cosine over the whole run; past the end all stay. The method
    adds its own. As published, the first step has rate 0 (without warm-up it has the peak). The cosines equal the
    published ones at every step. The published warm-up reaches its peak one step earlier (its linspace includes the
    end), so that it is higher by at most peak / warm-up steps.

    Raises:
        UserError: `epoch_samples` is not positive.
    """
    train = config.train
    total = total_steps(config, epoch_samples) * train.batch_size
    warmup = train.warmup_epochs * epoch_samples
    peak = train.learning_rate * train.batch_size / 256
    of_method = method_of(config).schedule(config, epoch_samples, total)

    def point(samples: int) -> SchedulePoint:
        return SchedulePoint(
            learning_rate=peak * samples / warmup
            if samples < warmup
            else cosine(peak, train.min_learning_rate, (samples - warmup) / max(1.0, total - warmup)),
            weight_decay=cosine(train.weight_decay, train.weight_decay_end, samples / total),
            method=of_method(samples),
        )

    return point
