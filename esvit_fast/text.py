"""Words for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 step", "1,234 steps"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def in_bytes(size: float) -> str:
    """A size in bytes with its unit: "64 KiB", "300 MiB", "1.25 GiB"."""
    if size >= 2**30:
        return f"{size / 2**30:,.2f} GiB"
    return f"{size / 2**20:,.0f} MiB" if size >= 10 * 2**20 else f"{size / 2**10:,.0f} KiB"


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the known name nearest to a wrong one, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known) or 'none'}"
