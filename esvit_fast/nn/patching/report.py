"""What patching did, as a table."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """What became of one module.

    Attributes:
        name: of the module within the model; "" is the model itself.
        kind: whose attention it is.
        patched: whether it runs on the operator now.
        why: in words.
    """

    name: str
    kind: str
    patched: bool
    why: str


@dataclass(frozen=True)
class Report:
    """What became of every window attention in a model: prints as a table, and is one in a notebook.

    Attributes:
        model: name of the model's class.
        rows: one for each module that was looked at, in the order of `named_modules`.
        linears: number of linear layers that run on `esvit_fast.ops.linear` where it serves them.
    """

    model: str
    rows: tuple[Row, ...]
    linears: int = 0

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def patched(self) -> tuple[Row, ...]:
        """Rows of the modules that run on the operator."""
        return tuple(row for row in self.rows if row.patched)

    @property
    def summary(self) -> str:
        """One line."""
        if not self.rows:
            return f"{self.model}: no window attention of a known kind"
        linears = f", {self.linears} linear layers too on a CPU" if self.linears else ""
        return f"{self.model}: {len(self.patched)} of {len(self.rows)} window attentions run on esvit_fast{linears}"

    def __str__(self) -> str:
        cells = [(row.name or "(model)", row.kind, "yes" if row.patched else "no", row.why) for row in self.rows]
        if not cells:
            return self.summary
        cells.insert(0, _HEADER)
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)
        return "\n".join((self.summary, *lines))

    def _repr_html_(self) -> str:
        def line(tag, cells):
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        body = (line("td", (row.name, row.kind, "yes" if row.patched else "no", row.why)) for row in self.rows)
        table = f"<table>{line('th', _HEADER)}{''.join(body)}</table>" if self.rows else ""
        return f"<p>{html.escape(self.summary)}</p>{table}"


_HEADER = ("module", "kind", "patched", "why")
