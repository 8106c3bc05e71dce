"""What an evaluation was and gave: the one record that the table, the JSON and the report are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ..text import counted

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Result:
    """What one protocol gave for one or several networks, and all that the numbers hang on."""

    protocol: str
    """Its name."""
    data: str
    bank: int
    """Training images that took part; 0 where a protocol has none."""
    queries: int
    """Test images, or images."""
    classes: int
    """That occur in the bank."""
    transform: str
    settings: Row
    numbers: Mapping[str, Sequence[Row]]
    """Rows of numbers by network: trained, untrained, raw pixels; accuracies in percent."""
    remarks: tuple[str, ...] = ()
    """What a reader of the numbers must know, in sentences."""
    headline: int = 0
    """Which of the rows of each network stands for it; no part of the JSON."""

    @property
    def chance(self) -> float:
        """Percent of the queries that choosing a class at random gets right."""
        return 100 / self.classes

    def row(self, network: str = "trained") -> Row:
        """The row that stands for a network where one number must do."""
        return self.numbers[network][self.headline]

    def tree(self) -> dict[str, Any]:
        """As JSON holds it."""
        tree = dataclasses.asdict(self) | ({"chance": self.chance} if self.classes else {})
        return {name: value for name, value in tree.items() if name != "headline"}

    def facts(self) -> list[str]:
        """What the numbers hang on, in lines for people."""
        lines = [f"data: {self.data}, {_images(self)}"]
        if self.classes:
            lines[0] += f", {self.classes:,} classes, chance {self.chance:.3g} %"
        said = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in self.settings.items())
        lines += [f"settings: {said}"] if said else []
        return [*lines, f"transform: {self.transform}", *self.remarks]


def _images(result: Result) -> str:
    if not result.bank:
        return counted(result.queries, "image")
    return f"{counted(result.queries, 'test image')} among {counted(result.bank, 'training image')}"


def drawn(taken: int, of: int, noun: str) -> list[str]:
    """The remark that not all images took part; none if they did."""
    return [f"{taken:,} of {counted(of, noun)} drawn: others may give other numbers"] if taken < of else []


def unread(lost: int) -> list[str]:
    """The remark that images could not be read; none if all could."""
    if not lost:
        return []
    return [f"{counted(lost, 'image')} could not be read and {'is' if lost == 1 else 'are'} left out"]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return " ".join(map(_short, value)) if isinstance(value, (tuple, list)) else str(value)
