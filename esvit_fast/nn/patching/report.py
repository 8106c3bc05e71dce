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
        patched: whether it calls the operator now.
        why: in words.
        backend: what the operator runs on, as the module stands; "" if it is not called. "reference" is plain torch.
    """

    name: str
    kind: str
    patched: bool
    why: str
    backend: str = ""


@dataclass(frozen=True)
class Runs:
    """What will run an operator of a patched model, with its weights where they are, of the dtype that they have.

    Attributes:
        op: its name.
        backend: one of cuda, triton, cpu, chunked, reference; the last is plain torch. "none": it will fail.
        on: device and dtype.
        why: why no faster one, or none; "" if there is no faster one for the device.
        count: of the modules for which this holds.
    """

    op: str
    backend: str
    on: str
    why: str = ""
    count: int = 1

    def __str__(self) -> str:
        name = _NAMES.get(self.backend, f"{self.backend} kernels")
        modules = "module" if self.count == 1 else "modules"
        return f"{self.op} ({self.count} {modules}, {self.on}): {name}" + (f"; {self.why}" if self.why else "")


@dataclass(frozen=True)
class Report:
    """What became of every window attention in a model: prints as a table, and is one in a notebook.

    Attributes:
        model: name of the model's class.
        rows: one for each module that was looked at, in the order of `named_modules`.
        linears: number of linear layers that run on `esvit_fast.ops.linear` where it serves them.
        runs: what runs the operators that the patched modules call.
    """

    model: str
    rows: tuple[Row, ...]
    linears: int = 0
    runs: tuple[Runs, ...] = ()

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
        lost = "; patching gains nothing: plain torch computes it all" if self.gains_nothing else ""
        return (
            f"{self.model}: {len(self.patched)} of {len(self.rows)} window attentions run on esvit_fast{linears}{lost}"
        )

    @property
    def gains_nothing(self) -> bool:
        """Whether modules were patched, and plain torch runs all that they call."""
        return bool(self.patched and self.runs) and all(run.backend == "reference" for run in self.runs)

    def __str__(self) -> str:
        if not self.rows:
            return self.summary
        cells = [_HEADER, *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)
        return "\n".join((self.summary, *lines, *map(str, self.runs)))

    def _repr_html_(self) -> str:
        def line(tag, cells):
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        body = (line("td", _cells(row)) for row in self.rows)
        table = f"<table>{line('th', _HEADER)}{''.join(body)}</table>" if self.rows else ""
        runs = "".join(f"<p>{html.escape(str(run))}</p>" for run in self.runs)
        return f"<p>{html.escape(self.summary)}</p>{table}{runs}"


_HEADER = ("module", "kind", "patched", "backend", "why")


def _cells(row: Row) -> tuple[str, ...]:
    backend = _NAMES.get(row.backend, row.backend)
    return row.name or "(model)", row.kind, "yes" if row.patched else "no", backend, row.why


_NAMES = {"": "-", "none": "none that can run", "reference": "plain torch"}
