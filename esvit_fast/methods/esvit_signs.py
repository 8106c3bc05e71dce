"""Signs that something is wrong with a run of EsViT: its teachers' answers, centres and matches.

They are judged against what is known without training: ln K, and the untrained network's own values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .signs import (
    GENERAL,
    LONG,
    Record,
    Run,
    Sign,
    all_of,
    dimensional,
    divergence,
    lower_rate,
    mend_divergence,
    value_of,
)


def _uniform_entropy(run: Run) -> float:
    return math.log(run.config.method.out_dim)


def _tasks(record: Record) -> list[tuple[str, str]]:
    """Names of the tasks of a record, and what their statistics' names begin with."""
    return [(task, begin) for task, begin in (("view", ""), ("region", "region_")) if f"{task}_loss" in record]


def _uniform(run: Run, record: Record) -> str | None:
    """The teacher has no opinion, and has had time to form one: the centred answers of untrained networks are flat."""
    if value_of(record, "epoch") < run.config.train.warmup_epochs / 2:
        return None
    return all_of(
        *(
            f"{task} teacher entropy {entropy:.3f} and loss {value_of(record, f'{task}_loss'):.3f} of ln K = "
            f"{_uniform_entropy(run):.3f}"
            for task, begin in _tasks(record)
            if (entropy := value_of(record, f"{begin}teacher_entropy")) > 0.98 * _uniform_entropy(run)
        )
    )


def _single(run: Run, record: Record) -> str | None:
    """All images have the same answer: fewer prototypes than a fifth of the exponent that a batch could use."""
    distinct = math.log(min(run.config.method.out_dim, run.images))
    return all_of(
        *(
            f"{task} marginal entropy {entropy:.3g} of {_uniform_entropy(run):.3f}, "
            f"{value_of(record, f'{begin}prototypes_used'):.0f} prototypes used, loss "
            f"{value_of(record, f'{task}_loss'):.3g}"
            for task, begin in _tasks(record)
            if (entropy := value_of(record, f"{begin}marginal_entropy")) < 0.2 * distinct
        )
    )


def _divergence(run: Run, record: Record) -> str | None:
    """Worse than knowing nothing, gradients without measure, or steps that cannot be taken."""
    uniform = _uniform_entropy(run)
    lost = (
        f"{task} loss {loss:.3g} above ln K = {uniform:.3g}"
        for task, _ in _tasks(record)
        if (loss := value_of(record, f"{task}_loss")) > 1.2 * max(uniform, run.first(f"{task}_loss"))
    )
    return all_of(*lost, divergence(run, record))


def _runaway(run: Run, record: Record) -> str | None:
    """A centre that outgrows the answers that it balances."""
    temp, count = value_of(record, "teacher_temp"), run.config.method.out_dim
    return all_of(
        *(
            f"{task} centre shifts answers by {shift:.0f} nats and grows"
            for task, begin in _tasks(record)
            if (shift := value_of(record, f"{begin}center_norm") / math.sqrt(count) / temp) > 20
            and run.rising(f"{begin}center_norm")
        )
    )


def _matching(run: Run, record: Record) -> str | None:
    """Regions of a view are all alike, or all take the same one."""
    similarity, margin, repeated = (value_of(record, f"match_{name}") for name in ("similarity", "margin", "repeated"))
    if (similarity > 0.98 and margin < 1e-3) or 1 - repeated < 0.3 * (1 - run.first("match_repeated")):
        return f"match similarity {similarity:.4f}, margin {margin:.2g}, {repeated:.0%} of the regions share a match"
    return None


def _mend_uniform(config: Any, record: Record) -> str:
    temp, student = value_of(record, "teacher_temp"), config.method.student_temp
    if value_of(record, "update_ratio") > LONG and temp < 0.7 * student:
        return lower_rate(config, 10)
    lower = 0.4 * student if temp > 0.4 * student else temp / 2
    start = f" and method.teacher_temp_start={config.method.teacher_temp_start:g}"
    return f"lower method.teacher_temp={config.method.teacher_temp:g}{start} to {lower:.2g}"


def _mend_single(config: Any, record: Record) -> str:
    method = config.method
    if method.centering == "mean" and method.center_momentum > 0.99:
        return f"lower method.center_momentum={method.center_momentum:g}, which holds the centre, to 0.9"
    if value_of(record, "update_ratio") > LONG:
        return lower_rate(config, 10)
    if method.centering == "mean":
        return "set method.centering=mean to sinkhorn, which balances the prototypes"
    return f"raise method.teacher_temp={method.teacher_temp:g} to {1.5 * method.teacher_temp:.2g}"


def _mend_dimensional(config: Any, record: Record) -> str:
    weight = config.method.koleo_weight
    if value_of(record, "update_ratio") > LONG or config.method.view_weight == 0:
        return lower_rate(config, 10)
    return f"raise method.koleo_weight={weight:g} to {2 * weight or 0.1:g}"


def _mend_matching(config: Any, record: Record) -> str:
    if config.method.match_dtype:
        return f"set method.match_dtype={config.method.match_dtype} to None"
    return _mend_dimensional(config, record)


SIGNS: Mapping[str, Sign] = {
    "uniform collapse": Sign(_uniform, _mend_uniform),
    "single-prototype collapse": Sign(_single, _mend_single),
    "dimensional collapse": Sign(dimensional, _mend_dimensional),
    "divergence": Sign(_divergence, mend_divergence),
    "dead student": GENERAL["dead student"],
    "runaway centre": Sign(_runaway, lambda config, record: "set method.norm_last_layer=false to true"),
    "degenerate matching": Sign(_matching, _mend_matching),
    "learning rate too high": GENERAL["learning rate too high"],
}
"""What can be found, in the order in which it is told."""
