"""Frozen dataclasses from plain trees, as YAML and JSON hold them, and back; what does not fit is named."""

from __future__ import annotations

import dataclasses
import types
import typing
from contextlib import suppress
from typing import Any, BinaryIO, Literal

import yaml

from ..errors import UserError
from ..text import suggest


class ConfigError(UserError):
    """A setting is unknown, of the wrong type or out of range; the message names it, its value and the remedy."""


def read_yaml(stream: BinaryIO) -> Any:
    """What a YAML file holds, in which a key that stands twice is a mistake.

    Raises:
        UserError: it is not YAML; where and why, in one line.
    """
    try:
        return yaml.load(stream, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or a number that cannot be
        raise UserError(" ".join(str(error).split())) from None


class _Loader(yaml.SafeLoader):
    """SafeLoader takes the last of keys that stand twice."""

    def construct_mapping(self, node, deep=False):
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {name!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def to_tree(value: Any) -> Any:
    """Plain dictionaries, lists and scalars, as YAML and JSON hold them."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_tree(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [to_tree(item) for item in value] if isinstance(value, tuple) else value


def from_tree(cls: type, tree: Any, where: str = "") -> Any:
    """Build a configuration dataclass from plain dictionaries; missing keys keep their defaults."""
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}={tree!r} must be a mapping of {', '.join(f.name for f in dataclasses.fields(cls))}")
    if class_for := getattr(cls, "class_for", None):
        cls = class_for(tree)
    hints = {f.name: hint for f in dataclasses.fields(cls) for hint in [typing.get_type_hints(cls)[f.name]]}
    values = {}
    for key, value in tree.items():
        if key not in hints:
            other = cls.whose(str(key)) if class_for else ""
            raise ConfigError(f"{where}: unknown key {key!r}{other or suggest(str(key), hints)}")
        values[key] = coerce(hints[key], value, f"{where}: {key}")
    return cls(**values)


def coerce(hint: Any, value: Any, where: str) -> Any:
    """A value of the type that a setting has, from what YAML, JSON or a command line has; `where` names it in errors.

    Raises:
        ConfigError: it has another type, or is none of the choices.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_tree(hint, value, where)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else coerce(next(a for a in args if a is not type(None)), value, where)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where}={value!r} must be one of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}={value!r} must be a list")
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else args
        if len(inner) != len(value):
            raise ConfigError(f"{where}={value!r} must have {len(inner)} values")
        return tuple(coerce(a, v, where) for a, v in zip(inner, value, strict=True))
    if hint in (int, float) and isinstance(value, int | float | str) and not isinstance(value, bool):
        return _number(hint, value, where)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where}={value!r} must be of type {hint.__name__}")
    return value


def _number(hint: type, value: float | str, where: str) -> int | float:
    try:
        if hint is int and not isinstance(value, float):
            with suppress(ValueError):
                return int(value)
        number = float(value)  # a string too: YAML 1.1 reads 5e-4 as one
    except ValueError:
        raise ConfigError(f"{where}={value!r} must be a number") from None
    except OverflowError:
        raise ConfigError(f"{where}={value!r} must be finite") from None
    if hint is float:
        return number
    if not number.is_integer():
        raise ConfigError(f"{where}={value!r} must be of type int")
    return int(number)
