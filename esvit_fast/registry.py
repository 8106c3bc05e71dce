"""What comes in many kinds, by name: one file a kind, which registers itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from .errors import UserError
from .plugins import VARIABLE, load_plugins
from .text import suggest

T = TypeVar("T")


class BrokenContract(UserError, TypeError):
    """What a plug-in registers lacks a part; the message names it."""


def missing_of(thing: object, contract: type, names: Iterable[str]) -> list[str]:
    """What a class or an object lacks, of these names, of a class that says what its kind has: what is not there, or is
    but what that class has in its place."""
    return [
        name
        for name in names
        if not hasattr(thing, name)
        or inspect.getattr_static(thing, name) is inspect.getattr_static(contract, name, thing)
    ]


class Registry(Mapping[str, T]):
    """Things of a kind by name: those of this library, and those that `plugins` register.

    Args:
        kind: what one of them is called in messages.
        check: is called with a name and what is registered by it; raises BrokenContract if that lacks a part.
    """

    def __init__(self, kind: str, check: Callable[[str, T], None] = lambda name, thing: None):
        self.kind, self.check = kind, check
        self._things: dict[str, T] = {}

    def register(self, thing: T, name: str) -> T:
        """Add a thing.

        Raises:
            BrokenContract: it lacks a part.
            UserError: the name is taken.
        """
        self.check(name, thing)
        if name in self._things:
            raise UserError(f"{self.kind} {name!r} is registered twice; give one of them another name")
        self._things[name] = thing
        return thing

    def __getitem__(self, name: str) -> T:
        if name not in self._things:
            load_plugins()
        return self._things[name]

    def __iter__(self) -> Iterator[str]:
        load_plugins()
        return iter(sorted(self._things))

    def __len__(self) -> int:
        load_plugins()
        return len(self._things)

    def find(self, name: str, argument: str = "name") -> T:
        """The thing of a name that a user gave as this argument.

        Raises:
            UserError: there is none; with the nearest name.
        """
        if name not in self:
            raise UserError(f"{argument}={name!r} is not a {self.kind}{self.suggest(name)}")
        return self[name]

    def suggest(self, name: str) -> str:
        """The end of a message about a name that is not known."""
        near = suggest(name, self)
        return near if near.endswith("?") else f"{near}; modules of your own that register more go into {VARIABLE}"
