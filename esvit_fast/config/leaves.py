"""The single settings of a configuration, whatever dataclasses it is made of, each with the rules beside its field."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from .rules import Cure, Free, Range, Rising


class Setting(NamedTuple):
    """One setting of a configuration."""

    name: str
    """Dotted, as in train.batch_size."""
    hint: Any
    """Its type, without the rules."""
    value: Any
    section: type
    """The dataclass whose field it is."""
    rules: tuple[Any, ...]
    """What its `Annotated` type says beside the type."""

    def why_wrong(self) -> str | None:
        """What a value must be that is out of range; None of one that is not."""
        ranges = (rule for rule in self.rules if isinstance(rule, Range | Rising) and self.value is not None)
        return next((str(rule) for rule in ranges if not rule.holds(self.value)), None)

    def is_free(self) -> bool:
        """Whether a run may go on with another value, as if nothing had changed."""
        return any(isinstance(rule, Free) for rule in self.rules)

    def is_cured_by(self, new: Any) -> bool:
        """Whether a run may go on with this other value if that is meant."""
        cures = (rule for rule in self.rules if isinstance(rule, Cure))
        return any(rule.zero or 0 not in (self.value, new) for rule in cures)

    def may_change(self) -> bool:
        """Whether whoever resumes a run may give this setting."""
        return any(isinstance(rule, Free | Cure) for rule in self.rules)


def leaves(section: Any, prefix: str = "") -> Iterator[Setting]:
    """All settings of a configuration, or of a part of one, in the order of its fields."""
    for name, hint, rules in _fields(type(section)):
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield Setting(prefix + name, hint, value, type(section), rules)


def settings(section: Any) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of all settings of a configuration."""
    return ((setting.name, setting.value) for setting in leaves(section))


@lru_cache
def _fields(cls: type) -> tuple[tuple[str, Any, tuple[Any, ...]], ...]:
    """Name, type and rules of every field."""
    plain, annotated = typing.get_type_hints(cls), typing.get_type_hints(cls, include_extras=True)
    names = [f.name for f in dataclasses.fields(cls)]
    return tuple((name, plain[name], getattr(annotated[name], "__metadata__", ())) for name in names)
