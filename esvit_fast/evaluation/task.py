"""What networks are evaluated on: images, the kind of their targets, and which of them take part."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from ..data import Source
from .result import drawn
from .targets import TARGETS, Side, Targets, same_images, subset


class Shown(NamedTuple):
    """The images that are looked at one by one: those for testing, where there are any."""

    source: Source
    split: str
    """Which split they are, in words; empty where the source is not divided."""


@dataclass(frozen=True, eq=False)
class Images:
    """The images that take part in an evaluation."""

    data: str
    """What they are called in results."""
    sides: tuple[Side, ...]
    """Bank and queries; where images have no targets, the training images alone."""
    targets: Targets
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Task:
    """Images and the kind of their targets.

    Args:
        train, test: the two splits; without the second, part of the first is held out.
        targets: a name of `TARGETS`.
        remarks: what a reader of every result must know.
    """

    train: Source
    test: Source | None = None
    targets: str = "class"
    remarks: tuple[str, ...] = ()
    _drawn: dict[tuple[int, int], Images] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def kind(self) -> Targets:
        """Of its targets; ValueError if there is none of this name."""
        return TARGETS.find(self.targets, "targets")

    @cached_property
    def sides(self) -> tuple[Side, Side] | None:
        """All images of bank and queries; None if the training images have no targets. Errors as `Targets.split`."""
        return self.kind.split(self.train, self.test)

    @cached_property
    def shown(self) -> Shown:
        """The test images, with targets or without; the training images where there are no others."""
        if self.test is None:
            return Shown(self.train, "training split")
        return Shown(self.test, "" if same_images(self.train, self.test) else "test split")

    def of(self, targets: str | None) -> Task:
        """The same images with targets of another kind; None: of whichever."""
        return self if targets in (None, self.targets) else replace(self, targets=targets)

    def draw(self, bank: int = 0, queries: int = 0) -> Images:
        """At most so many images of each side, random but always the same; 0 takes all.

        Images without targets are all taken, as one side.
        """
        if (bank, queries) not in self._drawn:
            self._drawn[bank, queries] = self._draw(bank, queries)
        return self._drawn[bank, queries]

    def _draw(self, bank: int, queries: int) -> Images:
        if self.sides is None:
            every = (self.train, list(range(len(self.train))))
            return Images(self.train.name, (every,), self.kind, self.remarks)
        remarks, chosen = list(self.remarks), []
        if self.sides[0][0] is self.sides[1][0]:
            remarks.append("no test split of its own: a tenth of the images is held out, and not among the neighbours")
        for what, limit, (source, rows) in zip(("training", "test"), (bank, queries), self.sides, strict=True):
            picked = [rows[i] for i in subset(len(rows), limit)]
            remarks += drawn(len(picked), len(rows), f"{what} image")
            chosen.append((source, picked))
        return Images(self.train.name, tuple(chosen), self.kind, tuple(remarks))
