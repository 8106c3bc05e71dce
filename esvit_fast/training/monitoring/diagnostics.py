"""A doctor for a run: training records in, findings out; what is wrong, since when, by which numbers, what to change.

Signs are judged against what is known without training: ln K, and the untrained network's own values. A sign must last
before it is told, and be gone as long before it is told again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from ...config import Config
from ...text import counted

RECORDS, STEPS = 3, 20
"""A sign is told after so many records in a row that span so many steps; it is gone after as many without it."""

Record = Mapping[str, Any]


class Finding(NamedTuple):
    """Something that is wrong with a run.

    Attributes:
        kind: its name, one of `KINDS`.
        since: step of the first record that showed it.
        evidence: the numbers.
        remedy: which setting to change, and to what.
    """

    kind: str
    since: int
    evidence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.kind} since step {self.since:,}: {self.evidence}; {self.remedy}"


class Collapsed(RuntimeError):
    """A finding has stopped the run, as `train.stop_on_collapse` asks; what it had learned is saved."""


class Diagnosis:
    """Follows a run, record by record; it is a function of them alone, so that a resumed run replays its own.

    Args:
        config: of the run.
        images: in a forward pass of one rank, which bounds how many prototypes its teacher can use.
    """

    def __init__(self, config: Config, images: int):
        self.config, self.uniform = config, math.log(config.method.out_dim)
        self.distinct = math.log(min(config.method.out_dim, images))
        self._first: dict[str, float] = {}
        self._recent: list[Record] = []
        self._signs = {kind: _Sign() for kind in KINDS}

    def see(self, record: Record) -> list[Finding]:
        """The findings that this record, the next of the run, makes last; what is missing or None shows nothing."""
        for name in record:
            if math.isfinite(value := _value(record, name)):
                self._first.setdefault(name, value)
        self._recent = [*self._recent, record][-RECORDS:]
        found = []
        for kind, (evidence, remedy) in KINDS.items():
            sign, seen = self._signs[kind], evidence(self, record)
            if sign.lasts(seen is not None, record["step"]):
                found.append(Finding(kind, sign.begin, seen, remedy(self.config, record)))
        return found

    def first(self, name: str) -> float:
        """What the untrained network had; NaN, with which all comparisons are false, if that is not known."""
        return self._first.get(name, math.nan)

    def rising(self, name: str) -> bool:
        """Whether a quantity rose from record to record, over as many as a sign must last."""
        values = [_value(record, name) for record in self._recent]
        return len(values) == RECORDS and all(a < b for a, b in pairwise(values))


class _Sign:
    """Hysteresis: whether a sign has lasted, and whether it has been told."""

    def __init__(self) -> None:
        self.begin, self._records, self._shown, self._told = 0, 0, False, False

    def lasts(self, shown: bool, step: int) -> bool:
        """Whether it is to be told now."""
        if shown != self._shown:
            self.begin, self._records, self._shown = step, 0, shown
        self._records += 1
        if self._records < RECORDS or step - self.begin < STEPS or shown == self._told:
            return False
        self._told = shown
        return shown


def _value(record: Record, name: str) -> float:
    value = record.get(name)
    return value if isinstance(value, int | float) else math.nan


def _tasks(record: Record) -> list[tuple[str, str]]:
    """Names of the tasks of a record, and what their statistics' names begin with."""
    return [(task, begin) for task, begin in (("view", ""), ("region", "region_")) if f"{task}_loss" in record]


def _all(*seen: str | None) -> str | None:
    return ", ".join(filter(None, seen)) or None


def _uniform(run: Diagnosis, record: Record) -> str | None:
    """The teacher has no opinion, and has had time to form one: the centred answers of untrained networks are flat."""
    if _value(record, "epoch") < run.config.train.warmup_epochs / 2:
        return None
    return _all(
        *(
            f"{task} teacher entropy {entropy:.3f} and loss {_value(record, f'{task}_loss'):.3f} of ln K = "
            f"{run.uniform:.3f}"
            for task, begin in _tasks(record)
            if (entropy := _value(record, f"{begin}teacher_entropy")) > 0.98 * run.uniform
        )
    )


def _single(run: Diagnosis, record: Record) -> str | None:
    """All images have the same answer: fewer prototypes than a fifth of the exponent that a batch could use."""
    return _all(
        *(
            f"{task} marginal entropy {entropy:.3g} of {run.uniform:.3f}, "
            f"{_value(record, f'{begin}prototypes_used'):.0f} prototypes used, loss "
            f"{_value(record, f'{task}_loss'):.3g}"
            for task, begin in _tasks(record)
            if (entropy := _value(record, f"{begin}marginal_entropy")) < 0.2 * run.distinct
        )
    )


def _dimensional(run: Diagnosis, record: Record) -> str | None:
    """Features of different images lie along a few directions."""
    rank, first = _value(record, "feature_rank"), run.first("feature_rank")
    if rank - 1 < 0.1 * (first - 1):
        return f"feature rank {rank:.2f}, untrained {first:.1f}, step of {_ratio(record)} of the weights' norm"
    return None


def _divergence(run: Diagnosis, record: Record) -> str | None:
    """Worse than knowing nothing, gradients without measure, or steps that cannot be taken."""
    norm, first = _value(record, "grad_norm"), run.first("grad_norm")
    lost = (
        f"{task} loss {loss:.3g} above ln K = {run.uniform:.3g}"
        for task, _ in _tasks(record)
        if (loss := _value(record, f"{task}_loss")) > 1.2 * max(run.uniform, run.first(f"{task}_loss"))
    )
    skipped = run.config.train.precision != "fp16" and run.rising("skipped_steps")  # fp16 searches for its loss scale
    return _all(
        *lost,
        f"gradient norm {norm:.3g}, untrained {first:.3g}" if norm > 100 * first else None,
        f"{counted(round(record['skipped_steps']), 'step')} not finite" if skipped else None,
    )


def _dead(run: Diagnosis, record: Record) -> str | None:
    """Nothing is left to learn from."""
    norm, first = _value(record, "grad_norm"), run.first("grad_norm")
    return f"gradient norm {norm:.2g}, untrained {first:.3g}" if norm < 1e-3 * first else None


def _runaway(run: Diagnosis, record: Record) -> str | None:
    """A centre that outgrows the answers that it balances."""
    temp, count = _value(record, "teacher_temp"), run.config.method.out_dim
    return _all(
        *(
            f"{task} centre shifts answers by {shift:.0f} nats and grows"
            for task, begin in _tasks(record)
            if (shift := _value(record, f"{begin}center_norm") / math.sqrt(count) / temp) > 20
            and run.rising(f"{begin}center_norm")
        )
    )


def _matching(run: Diagnosis, record: Record) -> str | None:
    """Regions of a view are all alike, or all take the same one."""
    similarity, margin, repeated = (_value(record, f"match_{name}") for name in ("similarity", "margin", "repeated"))
    if (similarity > 0.98 and margin < 1e-3) or 1 - repeated < 0.3 * (1 - run.first("match_repeated")):
        return f"match similarity {similarity:.4f}, margin {margin:.2g}, {repeated:.0%} of the regions share a match"
    return None


def _leaping(run: Diagnosis, record: Record) -> str | None:
    """Steps that leave nothing of what the weights were."""
    return f"a step is {_ratio(record)} of the weights' norm" if _value(record, "update_ratio") > 0.05 else None


def _ratio(record: Record) -> str:
    return f"{_value(record, 'update_ratio'):.2%}"


_LONG = 0.004
"""Steps as a share of the weights' norm that may themselves be why features collapse; usual is a thousandth."""


def _rate(config: Config, factor: float) -> str:
    rate = config.train.learning_rate
    return f"lower train.learning_rate={rate:g} to {rate / factor:.2g}"


def _mend_uniform(config: Config, record: Record) -> str:
    temp, student = _value(record, "teacher_temp"), config.method.student_temp
    if _value(record, "update_ratio") > _LONG and temp < 0.7 * student:
        return _rate(config, 10)
    lower = 0.4 * student if temp > 0.4 * student else temp / 2
    start = f" and method.teacher_temp_start={config.method.teacher_temp_start:g}"
    return f"lower method.teacher_temp={config.method.teacher_temp:g}{start} to {lower:.2g}"


def _mend_single(config: Config, record: Record) -> str:
    method = config.method
    if method.centering == "mean" and method.center_momentum > 0.99:
        return f"lower method.center_momentum={method.center_momentum:g}, which holds the centre, to 0.9"
    if _value(record, "update_ratio") > _LONG:
        return _rate(config, 10)
    if method.centering == "mean":
        return "set method.centering=mean to sinkhorn, which balances the prototypes"
    return f"raise method.teacher_temp={method.teacher_temp:g} to {1.5 * method.teacher_temp:.2g}"


def _mend_dimensional(config: Config, record: Record) -> str:
    weight = config.method.koleo_weight
    if _value(record, "update_ratio") > _LONG or config.method.view_weight == 0:
        return _rate(config, 10)
    return f"raise method.koleo_weight={weight:g} to {2 * weight or 0.1:g}"


def _mend_divergence(config: Config, record: Record) -> str:
    clip = "" if config.train.clip_grad else ", and set train.clip_grad=0 to 3"
    return _rate(config, 3) + clip


def _mend_matching(config: Config, record: Record) -> str:
    if config.method.match_dtype:
        return f"set method.match_dtype={config.method.match_dtype} to None"
    return _mend_dimensional(config, record)


KINDS: Mapping[str, tuple[Callable[[Diagnosis, Record], str | None], Callable[[Config, Record], str]]] = {
    "uniform collapse": (_uniform, _mend_uniform),
    "single-prototype collapse": (_single, _mend_single),
    "dimensional collapse": (_dimensional, _mend_dimensional),
    "divergence": (_divergence, _mend_divergence),
    "dead student": (_dead, lambda config, record: f"go back to a checkpoint from before, and {_rate(config, 3)}"),
    "runaway centre": (_runaway, lambda config, record: "set method.norm_last_layer=false to true"),
    "degenerate matching": (_matching, _mend_matching),
    "learning rate too high": (_leaping, lambda config, record: _rate(config, 10)),
}
"""What can be found: a name to its evidence in a record, None without, and to its remedy."""
