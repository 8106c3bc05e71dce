"""Signs that something is wrong with a run: what the records of any method show, and what to change then."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from ..text import counted

Record = Mapping[str, Any]


class Run(Protocol):
    """What a sign may look at beside a record."""

    config: Any
    images: int
    """In a forward pass of one rank."""

    def first(self, name: str) -> float:
        """What the untrained network had; NaN, with which all comparisons are false, if that is not known."""

    def rising(self, name: str) -> bool:
        """Whether a quantity rose from record to record."""


class Sign(NamedTuple):
    """The numbers in a record that show it, None without; and which setting to change, and to what."""

    evidence: Callable[[Run, Record], str | None]
    remedy: Callable[[Any, Record], str]


LONG = 0.004
"""Steps as a share of the weights' norm that may themselves be why features collapse; usual is a thousandth."""


def value_of(record: Record, name: str) -> float:
    """A number of a record; NaN if it has none of that name."""
    value = record.get(name)
    return value if isinstance(value, int | float) else math.nan


def all_of(*seen: str | None) -> str | None:
    """What was seen, between commas; None if that is nothing."""
    return ", ".join(filter(None, seen)) or None


def step_ratio(record: Record) -> str:
    """The size of a step, in percent of the weights' norm."""
    return f"{value_of(record, 'update_ratio'):.2%}"


def lower_rate(config: Any, factor: float) -> str:
    """A remedy: a learning rate that is smaller by a factor."""
    rate = config.train.learning_rate
    return f"lower train.learning_rate={rate:g} to {rate / factor:.2g}"


def dimensional(run: Run, record: Record) -> str | None:
    """Features of different images lie along a few directions."""
    rank, first = value_of(record, "feature_rank"), run.first("feature_rank")
    if rank - 1 < 0.1 * (first - 1):
        return f"feature rank {rank:.2f}, untrained {first:.1f}, step of {step_ratio(record)} of the weights' norm"
    return None


def divergence(run: Run, record: Record) -> str | None:
    """Gradients without measure, or steps that cannot be taken."""
    norm, first = value_of(record, "grad_norm"), run.first("grad_norm")
    skipped = run.config.train.precision != "fp16" and run.rising("skipped_steps")  # fp16 searches for its loss scale
    return all_of(
        f"gradient norm {norm:.3g}, untrained {first:.3g}" if norm > 100 * first else None,
        f"{counted(round(record['skipped_steps']), 'step')} not finite" if skipped else None,
    )


def dead(run: Run, record: Record) -> str | None:
    """Nothing is left to learn from."""
    norm, first = value_of(record, "grad_norm"), run.first("grad_norm")
    return f"gradient norm {norm:.2g}, untrained {first:.3g}" if norm < 1e-3 * first else None


def leaping(run: Run, record: Record) -> str | None:
    """Steps that leave nothing of what the weights were."""
    return f"a step is {step_ratio(record)} of the weights' norm" if value_of(record, "update_ratio") > 0.05 else None


def mend_divergence(config: Any, record: Record) -> str:
    """A lower learning rate, and clipped gradients."""
    clip = "" if config.train.clip_grad else ", and set train.clip_grad=0 to 3"
    return lower_rate(config, 3) + clip


GENERAL: Mapping[str, Sign] = {
    "dimensional collapse": Sign(dimensional, lambda config, record: lower_rate(config, 10)),
    "divergence": Sign(divergence, mend_divergence),
    "dead student": Sign(
        dead, lambda config, record: f"go back to a checkpoint from before, and {lower_rate(config, 3)}"
    ),
    "learning rate too high": Sign(leaping, lambda config, record: lower_rate(config, 10)),
}
"""Signs of any method."""
