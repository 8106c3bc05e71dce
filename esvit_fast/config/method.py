"""Settings of whichever method a run pretrains with: `method: {name: …, …}`, beside the method and not here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..registry import Registry

DEFAULT = "esvit"
SUFFIX = "_settings"
OURS = [path.stem.removesuffix(SUFFIX) for path in Path(__file__).parents[1].glob(f"methods/*{SUFFIX}.py")]
"""The methods of this library: beside methods/NAME.py lies NAME_settings.py, which needs no torch."""


@dataclass(frozen=True)
class MethodSettings:
    """What the settings of a method derive from."""

    name: str = DEFAULT
    """The method of pretraining."""

    def why_wrong(self) -> str | None:
        """Which settings do not go together, and the remedy; None if they do. Single ones have their range beside
        them."""
        return None

    @classmethod
    def of(cls, name: str, argument: str = "method.name") -> type[MethodSettings]:
        """The settings of a method.

        Raises:
            UserError: there is none of that name; with the nearest.
        """
        if name in OURS:
            import_module(f"..methods.{name}{SUFFIX}", __package__)
        return SETTINGS.find(name, argument)

    @classmethod
    def default(cls) -> MethodSettings:
        """Those of the default method."""
        return cls.of(DEFAULT)()

    @classmethod
    def class_for(cls, tree: Any) -> type[MethodSettings]:
        """The class that a mapping of settings is for, as it names it."""
        return cls.of(tree.get("name", DEFAULT)) if isinstance(tree, dict) else cls.of(DEFAULT)

    @classmethod
    def whose(cls, key: str) -> str:
        """For a message about a setting that this method does not have: which methods have it."""
        others = [name for name in names() if key in {f.name for f in dataclasses.fields(cls.of(name))}]
        return f"; it is a setting of method.name={' and '.join(others)}" if others else ""


SETTINGS: Registry[type[MethodSettings]] = Registry("method")


def register_settings(settings: type[MethodSettings]) -> type[MethodSettings]:
    """Let recipes have the settings of a method: a decorator of its dataclass, whose default of `name` is its name."""
    return SETTINGS.register(settings, settings.name)


def names() -> list[str]:
    """Of all methods."""
    return sorted({*OURS, *SETTINGS})
