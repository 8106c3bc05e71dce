"""A doctor for a run: training records in, findings out; what is wrong, since when, by which numbers, what to change.

A sign, one of those that the run's method has, must last before it is told, and be gone as long before it is told
again.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

from ...config import Config
from ...errors import UserError
from ...methods import method_of
from ...methods.signs import Record, value_of

RECORDS, STEPS = 3, 20
"""A sign is told after so many records in a row that span so many steps; it is gone after as many without it."""


class Finding(NamedTuple):
    """Something that is wrong with a run.

    Attributes:
        kind: its name among the method's signs.
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


class Collapsed(UserError, RuntimeError):
    """A finding has stopped the run, as `train.stop_on_collapse` asks; what it had learned is saved."""


class Diagnosis:
    """Follows a run, record by record; it is a function of them alone, so that a resumed run replays its own.

    Args:
        config: of the run.
        images: in a forward pass of one rank, which bounds what its answers can tell apart.
    """

    def __init__(self, config: Config, images: int):
        self.config, self.images, self.signs = config, images, method_of(config).signs
        self._first: dict[str, float] = {}
        self._recent: list[Record] = []
        self._signs = {kind: _Shown() for kind in self.signs}

    def see(self, record: Record) -> list[Finding]:
        """The findings that this record, the next of the run, makes last; what is missing or None shows nothing."""
        for name in record:
            if math.isfinite(value := value_of(record, name)):
                self._first.setdefault(name, value)
        self._recent = [*self._recent, record][-RECORDS:]
        found = []
        for kind, (evidence, remedy) in self.signs.items():
            sign, seen = self._signs[kind], evidence(self, record)
            if sign.lasts(seen is not None, record["step"]):
                found.append(Finding(kind, sign.begin, seen, remedy(self.config, record)))
        return found

    def first(self, name: str) -> float:
        """What the untrained network had; NaN, with which all comparisons are false, if that is not known."""
        return self._first.get(name, math.nan)

    def rising(self, name: str) -> bool:
        """Whether a quantity rose from record to record, over as many as a sign must last."""
        values = [value_of(record, name) for record in self._recent]
        return len(values) == RECORDS and all(a < b for a, b in pairwise(values))


class _Shown:
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
