"""What an evaluation was and gave: the one record that the table, the JSON and the report are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError
from .measures.knn import check_temperature

HEADLINE_K = 20
"""The number of neighbours whose accuracy stands for k-NN where one number must do."""
K = (10, HEADLINE_K, 100, 200)
"""As published."""

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class EvalSettings:
    """All that an evaluation may be told, with the defaults that `eval`, `report` and the suite share."""

    bank: int = 0
    """Training images at most, the same random ones every time; 0: all."""
    queries: int = 0
    """Test images at most, likewise."""
    size: int | None = None
    """Side of the images in pixels; None: the model's own."""
    k: tuple[int, ...] | None = None
    """Neighbours; None: `K`, each lowered to the size of a smaller bank."""
    temperature: float = 0.07
    """Of the neighbours' votes."""
    blocks: int = 4
    """Last blocks whose pooled tokens the linear probe reads, as published; 0: the pooled output of the model."""
    epochs: int = 100
    """Of the linear probe."""
    seed: int = 0
    """Of the linear probe and of the views of correspondence; the weights of a run have their own."""
    pair_images: int = 200
    """Images whose regions are looked for in another view; 0: all."""
    batch_size: int = 256
    """Images at a time; it changes no number but by rounding."""

    def __post_init__(self) -> None:
        for name in ("bank", "queries", "pair_images"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} must be 0 or more; 0 takes all images")
        if self.blocks < 0:
            raise UserError(f"blocks={self.blocks} must be 0 or more; the published value is 4")
        for name, unit in {"size": " pixels", "epochs": "", "batch_size": " images"}.items():
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"{name}={value} must be 1 or more{unit}")
        if self.k is not None and min(self.k, default=0) < 1:
            raise UserError(f"k={min(self.k, default=())} must be 1 or more; the published ones are {_short(K)}")
        check_temperature(self.temperature)


READS: Mapping[str, tuple[str, ...]] = {
    "knn": ("bank", "queries", "size", "k", "temperature"),
    "linear": ("bank", "queries", "size", "blocks", "epochs", "seed"),
    "correspondence": ("size", "pair_images", "seed"),
}
"""The settings that each protocol reads, but for those that change no number."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What one protocol gave for one or several networks, and all that the numbers hang on."""

    protocol: str
    """knn, linear, correspondence or health."""
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

    @property
    def chance(self) -> float:
        """Percent of the queries that choosing a class at random gets right."""
        return 100 / self.classes

    def row(self, network: str = "trained") -> Row:
        """The row that stands for a network where one number must do: of `HEADLINE_K` neighbours, or the first."""
        rows = self.numbers[network]
        return min(rows, key=lambda row: abs(row.get("k", HEADLINE_K) - HEADLINE_K))

    def tree(self) -> dict[str, Any]:
        """As JSON holds it."""
        return dataclasses.asdict(self) | ({"chance": self.chance} if self.classes else {})

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
        return count(result.queries, "image")
    return f"{count(result.queries, 'test image')} among {count(result.bank, 'training image')}"


def count(number: int, noun: str) -> str:
    """A number with its noun in the right form."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return " ".join(map(_short, value)) if isinstance(value, (tuple, list)) else str(value)
