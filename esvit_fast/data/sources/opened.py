"""A source that has been looked at, before its images are read: which splits it has, and how to get each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..layout.split_names import words_for
from .account import Account
from .encoded import NoSplit, Source, check_split


@dataclass(frozen=True)
class Opened:
    """The splits of a source: `train` and `test`, one of these, or `all`."""

    spec: str
    parts: dict[str, Callable[[], Source]]
    account: Account = Account()  # noqa: RUF009
    remedy: str = "add images in a folder of such a name"
    """What gives it a split that it lacks."""

    def take(self, split: str) -> Source:
        """The images of a split; all, if they are not divided.

        Raises:
            NoSplit: there are splits, but not this one.
        """
        check_split(split)
        part = split if split in self.parts else "all"
        if part not in self.parts:
            raise NoSplit(
                f"data.source={self.spec!r} has {', '.join(self.parts)} images but no {split} images "
                f"(called {' or '.join(words_for(split))}); {self.remedy}, or pass images that are not divided"
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
