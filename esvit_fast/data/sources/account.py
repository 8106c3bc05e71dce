"""What was understood of a source, and what of it was left out: for `data check`, and for a line when a run begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

FIRST = 3
"""Names that are told of what was left out for one reason."""


class LeftOut(NamedTuple):
    """What is there but not used, for one reason: how many, and the first names."""

    why: str
    count: int
    first: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(map(printable, self.first)) + (", …" if self.count > len(self.first) else "")
        return f"{self.count:,} left out: {self.why} ({names})"


class Account(NamedTuple):
    """How a source was read."""

    layout: str = ""
    """The layout that was understood, in a sentence."""
    left_out: tuple[LeftOut, ...] = ()
    remarks: tuple[str, ...] = ()
    """What may be other than it was meant."""

    def joined(self, *others: Account) -> Account:
        """This account and others of the same source."""
        every = (self, *others)
        return Account(
            "; ".join(filter(None, (one.layout for one in every))),
            tuple(merged(entry for one in every for entry in one.left_out)),
            tuple(dict.fromkeys(remark for one in every for remark in one.remarks)),
        )


def account_of(source: Any) -> Account:
    """The account that a source keeps, or an empty one."""
    return getattr(source, "account", None) or Account()


def merged(entries: Iterable[LeftOut]) -> list[LeftOut]:
    """Those of the same reason as one."""
    found: dict[str, LeftOut] = {}
    for why, count, first in entries:
        before = found.get(why, LeftOut(why, 0, ()))
        found[why] = LeftOut(why, before.count + count, (*before.first, *first)[:FIRST])
    return [entry for entry in found.values() if entry.count]


def left_out(why: str, names: Sequence[str]) -> list[LeftOut]:
    """An entry for these names; none if there are none."""
    return [LeftOut(why, len(names), tuple(names[:FIRST]))] if len(names) else []


def report_of(account: Account) -> dict[str, Any]:
    """An account as plain JSON."""
    entries = [{"why": e.why, "count": e.count, "first": list(map(printable, e.first))} for e in account.left_out]
    return {"layout": printable(account.layout), "left_out": entries}


def findings(account: Account) -> list[str]:
    """All for which a source is not simply good, a line each."""
    return [*map(str, account.left_out), *map(printable, account.remarks)]


def warning_of(source: Any) -> str | None:
    """One line for who starts a run; None if all that is there is used and its layout leaves no doubt."""
    found = findings(account_of(source))
    if not found:
        return None
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"data.source={source.name!r}: {found[0]}{more}; `esvit-fast data check` tells all"


def printable(name: str) -> str:
    """A name that any UTF-8 output can show."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
