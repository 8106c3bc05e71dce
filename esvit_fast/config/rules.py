"""What stands beside a setting, in its `Annotated` type: the numbers that it takes, and whether a run may change it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Bounds of a number, or of every number of a tuple; `least` and `most` are allowed themselves."""

    above: float | None = None
    least: float | None = None
    most: float | None = None

    def holds(self, value: Any) -> bool:
        """Whether a value lies within."""
        return all(
            (self.above is None or number > self.above)
            and (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
            for number in (value if isinstance(value, tuple) else (value,))
        )

    def __str__(self) -> str:
        bounds = {"greater than": self.above, "at least": self.least, "at most": self.most}
        given = {words: bound for words, bound in bounds.items() if bound is not None}
        if given == {"at least": 0}:
            return "must not be negative"
        if given.keys() == {"at least", "at most"}:
            return f"must lie between {_written(self.least)} and {_written(self.most)}"
        return f"must be {' and '.join(f'{words} {_written(bound)}' for words, bound in given.items())}"


@dataclass(frozen=True)
class Rising:
    """Two numbers above 0 and up to `most`, of which the second is not the smaller one."""

    most: float | None = None

    def holds(self, pair: tuple[float, float]) -> bool:
        """Whether two numbers are like that."""
        low, high = pair
        return 0 < low <= high and (self.most is None or high <= self.most)

    def __str__(self) -> str:
        return "must rise above 0" if self.most is None else f"must rise within (0, {_written(self.most)}]"


@dataclass(frozen=True)
class Free:
    """May change when a run goes on: it says where and how the same is computed, or what is written."""


@dataclass(frozen=True)
class Cure:
    """May be changed by whoever resumes a run, who makes it another one from there on; its checkpoint fits both.

    Attributes:
        zero: whether it may also change from or to 0; not where 0 leaves out weights that a checkpoint holds.
    """

    zero: bool = True


def _written(number: float) -> str:
    bits = int(number).bit_length()
    return f"2**{bits} - 1" if bits > 16 and number == 2**bits - 1 else f"{number:g}"
