"""The one rule by which tests and benchmarks call a result exact: its error is at most twice that of plain torch.

Errors are against float64, in three measures: the largest, the root mean square, and what the errors of a result have
in common: the part of them that is proportional to the result. What is allowed is twice the error of plain torch in
the same dtype, and one rounding: half a unit in the last place of the result, in the same measure.

**Torch's error is the largest of several draws.** On one problem it may be small by luck: where a gradient is a single
number, the roundings of its sum may happen to cancel, on one processor and not on another. A draw is the same problem
with every number moved by a few units in its last place: other roundings, of the same size. Only who exceeds the first
draw sees more of them, up to a hundred: of one number, or of many that one sum's rounding moves, few tell little.

**A wrong result does not hide.** A term that is left out, an element of a mask or a sum in a narrower dtype is far
beyond twice torch's largest error. An error of 4 units in the last place, which is 8 roundings, in every number of a
result may be less than twice torch's largest, and root mean square, where sums have many terms. But roundings go either
way: what they have in common is a fraction of one, and that is where 4 units show. In a few numbers nothing cancels:
`together` takes those of many problems as one result. In one number among many, 4 units show where torch's largest
error is below one and a half, as it is in 16 bits and in short sums.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Results = Mapping[str, Tensor] | Sequence[Tensor]
Draw = tuple[Results, Results]
"""Of plain torch, and exact."""
Given = TypeVar("Given")

DRAWS = 100
"""At most; of one number, or of many that all are off by the same sum's rounding."""
HOPELESS = 8, 10
"""After so many draws nobody is asked for more whose error is so many times what is allowed."""
MOVED = 4
"""By how many units in the last place the numbers of a draw differ from those of the problem, at most."""


def largest(error: Tensor, exact: Tensor) -> Tensor:
    """The largest absolute value."""
    return error.abs().max()


def rms(error: Tensor, exact: Tensor) -> Tensor:
    """Root of the mean square."""
    return error.square().mean().sqrt()


def common(error: Tensor, exact: Tensor) -> Tensor:
    """Root of the mean square of what is proportional to the exact result."""
    return (error * exact).sum().abs() / (exact.norm() * exact.numel() ** 0.5).clamp_min(torch.finfo(exact.dtype).tiny)


Measure = Callable[[Tensor, Tensor], Tensor]
MEASURES: tuple[Measure, ...] = (largest, rms, common)


@dataclasses.dataclass
class Judged:
    """A result in a measure: `ratio` is its error in units of what is allowed; above 1 is a failure."""

    name: str | int
    measure: Measure
    error: float
    floor: float
    factor: int = 2
    torchs: float = 0.0

    @property
    def ratio(self) -> float:
        """Infinite for what is no number."""
        allowed = self.factor * self.torchs + self.floor
        return self.error / allowed if self.error < math.inf else math.inf

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.measure.__name__} error {self.error:.2e}, "
            f"torch {self.torchs:.2e}, floor {self.floor:.2e}"
        )


def nudged(given: Given, number: int) -> Given:
    """Tensors, and what holds some, with every number moved by up to `MOVED` units in its last place.

    The draw 0 is what is given. Zeros, infinities and integers stay; float64 is moved as float32.
    """
    generator = torch.Generator().manual_seed(number)

    def moved(x: Tensor) -> Tensor:
        step = MOVED * max(torch.finfo(x.dtype).eps, torch.finfo(torch.float32).eps)
        factor = 1 + step * (2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1)
        return (x.detach().double() * factor.to(x.device)).to(x.dtype)

    return given if number == 0 else _changed(given, moved)


def doubles(given: Given) -> Given:
    """Tensors, and what holds some, in float64."""
    return _changed(given, lambda x: x.detach().double())


def _changed(x: Given, change: Callable[[Tensor], Tensor]) -> Given:
    if isinstance(x, Tensor):
        return change(x).requires_grad_(x.requires_grad) if x.is_floating_point() else x
    if isinstance(x, Mapping):
        return {name: _changed(value, change) for name, value in x.items()}
    if dataclasses.is_dataclass(x):
        return dataclasses.replace(x, **_changed(vars(x), change))
    if isinstance(x, list | tuple):
        parts = [_changed(value, change) for value in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    return x


def draws(evaluate: Callable[[Given], Draw], given: Given, begin: int = 0) -> Iterator[Draw]:
    """`evaluate` of a problem, and then of those that differ from it by a few roundings, as long as they are asked for.

    Args:
        evaluate: from what is `given` to the results of plain torch, and to the exact ones. Those of float64 are taken
            in float32: they have no truth beside them, and torch does there what it does here, in proportion.
        begin: 1 leaves out the problem itself.
    """
    return (evaluate(nudged(given, number)) for number in range(begin, DRAWS))


def judge(
    found: Results,
    draws: Iterable[Draw],
    measures: Sequence[Measure] = MEASURES,
    *,
    exact: Results | None = None,
    dtype: torch.dtype | None = None,
) -> Judged:
    """The worst of all results in all measures.

    Args:
        found: results by name or number.
        draws: results of plain torch, and the exact ones in float64; those of the problem itself first. Later ones are
            only asked for as long as something exceeds what is allowed.
        exact: of the problem itself, where that is in float64: torch's error is then what it is in the draws' dtype, in
            proportion, and once more for `exact`, which is torch's own.
        dtype: what is computed in, of whose roundings one is allowed; each result's own by default.
    """
    rows: list[Judged] = []
    for number, (plain, truth) in enumerate(itertools.islice(draws, DRAWS)):
        if number == 0:
            rows = undecided = _rows(found, plain, truth if exact is None else exact, measures, dtype)
            for row in rows:
                row.factor += exact is not None
        for row in undecided:
            theirs = plain[row.name]
            scale = 1.0 if exact is None else torch.finfo(found[row.name].dtype).eps / torch.finfo(theirs.dtype).eps
            row.torchs = max(row.torchs, scale * _error(row.measure, theirs, truth[row.name]))
        undecided = [row for row in undecided if row.ratio > 1]
        worst = max((row.ratio for row in undecided), default=0.0)
        if not undecided or worst == math.inf or (number + 1 >= HOPELESS[0] and worst > HOPELESS[1]):
            break
    return max(rows, key=lambda row: row.ratio)


def error_ratio(found: Results, plain: Callable[[Given], Results], given: Given) -> float:
    """The error of what someone found, in units of what is allowed; above 1 is a failure.

    Args:
        found: results of what is `given`.
        plain: what is given, in any dtype, to the results of plain torch.
    """

    def evaluate(drawn: Given) -> Draw:
        return plain(drawn), plain(doubles(drawn))

    return judge(found, draws(evaluate, given)).ratio


def worst(ratios: Iterable[float]) -> float:
    """The largest of several ratios; infinite if one is no number, which no comparison would find."""
    return max(math.inf if math.isnan(ratio) else ratio for ratio in ratios)


def together(found: Sequence[Results], drawn: Sequence[Sequence[Draw]]) -> Judged:
    """As `judge`, of the results of many problems as if they were one: for results of few numbers.

    Each is divided by torch's error in it, so that no problem outweighs others.

    Args:
        found: results of each problem, by name.
        drawn: as many draws of each problem as of any other, the problem itself first.
    """
    units = [{name: _torchs(name, of) for name in of[0][1]} for of in drawn]

    def joined(of: Sequence[Results]) -> dict[str, Tensor]:
        pairs = list(zip(of, units, strict=True))
        return {name: torch.cat([x[name].double().flatten() / unit[name] for x, unit in pairs]) for name in of[0]}

    pooled = [tuple(map(joined, zip(*draw, strict=True))) for draw in zip(*drawn, strict=True)]
    return judge(joined(found), pooled, dtype=next(iter(drawn[0][0][0].values())).dtype)


def _torchs(name: str, drawn: Sequence[Draw]) -> float:
    squares = [_error(rms, plain[name], truth[name]) ** 2 for plain, truth in drawn]
    return max(sum(squares) / len(squares), torch.finfo(torch.float32).tiny) ** 0.5


def _rows(
    found: Results, plain: Results, exact: Results, measures: Sequence[Measure], dtype: torch.dtype | None
) -> list[Judged]:
    if len(found) != len(exact):
        raise ValueError(f"found has {len(found)} results; there must be {len(exact)}, as of plain torch")
    rows = []
    for name in exact if isinstance(exact, Mapping) else range(len(exact)):
        ours, target = found[name], exact[name].double()
        fits = ours.shape == target.shape and bool(ours.isfinite().all())
        unit = torch.finfo(dtype or plain[name].dtype).eps / 2
        for measure in measures if target.numel() else ():
            error = _error(measure, ours, target) if fits else math.inf
            # exponentials below the smallest normal float32 may count as zero
            floor = unit * measure(target, target).item() + torch.finfo(torch.float32).tiny
            rows.append(Judged(name, measure, error, floor))
    return rows


def _error(measure: Measure, ours: Tensor, exact: Tensor) -> float:
    return measure(ours.double() - exact, exact.double()).item()
