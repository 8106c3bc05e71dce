"""A source that has been looked at, before its images are read: which splits it has, and how to get each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .account import Account
from .encoded import SPLITS, NoSplit, Source, check_split


@dataclass(frozen=True)
class Opened:
    """The splits of a source: `train` and `test`, one of these, or `all`."""

    spec: str
    parts: dict[str, Callable[[], Source]]
    account: Account = Account()  # noqa: RUF009

    def take(self, split: str) -> Source:
        """The images of a split; all, if they are not divided.

        Raises:
            NoSplit: there are splits, but not this one.
        """
        check_split(split)
        part = split if split in self.parts else "all"
        if part not in self.parts:
            raise NoSplit(
                f"data.source={self.spec!r} has {', '.join(self.parts)}/ but no {' or '.join(SPLITS[split])}/; "
                "add that folder, or pass images that are not divided into splits"
            )
        source = self.parts[part]()
        if self.account != Account():
            source.account = self.account
        return source

    def splits(self) -> dict[str, Source]:
        """All that have images: `train` and `test`, or one of these, or `all`."""
        found = {}
        for part in self.parts:
            try:
                found[part] = self.take("train" if part == "all" else part)
            except NoSplit:
                continue
        return found
