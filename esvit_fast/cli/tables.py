"""Tables of which nothing is cut, in a narrow terminal or a file."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def show(table: Table, console: Console | None = None, *, fold: int = 10_000) -> None:
    """Print a table: into a file as wide as it is, in a terminal with lines broken where it is too wide.

    The first column is never broken: it has names that people search for.

    Args:
        fold: the width from which lines are broken in a file, too.
    """
    console = console or Console()
    natural = console.measure(table, options=console.options.update(width=10_000)).maximum
    if not console.is_terminal:
        console.width = max(console.width, min(natural, fold))
    for number, column in enumerate(table.columns):
        column.no_wrap, column.overflow = number == 0, "fold"
    first = table.columns[0]
    first.min_width = max(console.measure(cell).maximum for cell in (first.header, *first.cells) if cell)
    console.print(table, highlight=False)
