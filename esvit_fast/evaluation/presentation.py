"""How a protocol's numbers are shown: as data, which the command line and the report draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Card(NamedTuple):
    """A headline figure, in percent, of each network."""

    title: str
    key: str
    """Of the row that stands for a network (`Result.row`)."""
    note: str
    """What the figure is, in sentences."""
    chance: float | None = None
    """Percent that guessing gives."""


class Comparison(NamedTuple):
    """A table of what one row says of the untrained network and of the trained one, beside each other."""

    title: str
    text: str
    rows: Sequence[tuple[str, str, str]]
    """A name, what it means, and a format string of the row: ("Spread", "0 is collapse", "{std:.3f}")."""


class Grid(NamedTuple):
    """A table that belongs to one row, such as what was tried before it was chosen."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    chosen: int | None = None
    """The row to set apart."""
    note: str = ""
