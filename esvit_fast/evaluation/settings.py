"""What a protocol may be told: frozen dataclasses whose fields know what they mean and where they end."""

from __future__ import annotations

import dataclasses
import operator
import typing
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..registry import BrokenContract

_BOUNDS = (
    ("at_least", operator.ge, "{} or more"),
    ("above", operator.gt, "greater than {}"),
    ("at_most", operator.le, "at most {}"),
)


class Field(typing.NamedTuple):
    """What is known of a setting beside its default."""

    about: str = ""
    """What it is, for --help."""
    at_least: float | None = None
    """The least value, of each where there are several."""
    above: float | None = None
    """Instead of `at_least`: what each value must be greater than."""
    at_most: float | None = None
    """The greatest value."""
    unit: str = ""
    """What the value counts, for messages."""
    hint: str = ""
    """What else a message about a wrong value says."""
    default_is: str = ""
    """What a default of None stands for, in words."""

    def check(self, field: str, value: Any) -> None:
        """Raise ValueError unless a value, or each of several, is in range; None is no value."""
        limits = [(*bound, limit) for name, *bound in _BOUNDS if (limit := getattr(self, name)) is not None]
        if value is None or not limits:
            return
        values = value if isinstance(value, tuple) else (value,)
        wrong = [one for one in values if not all(holds(one, limit) for holds, _, limit in limits)]
        if wrong or not values:
            wanted = " and ".join(words.format(limit) for _, words, limit in limits)
            unit, hint = f" {self.unit}" if self.unit else "", f"; {self.hint}" if self.hint else ""
            raise UserError(f"{field}={wrong[0] if wrong else ()} must be {wanted}{unit}{hint}")


def setting(default: Any, about: str, **known: Any) -> Any:
    """A field of `Settings`.

    Args:
        default: None, where a protocol finds a value that suits the images or the network.
        about, known: as in `Field`.
    """
    return dataclasses.field(default=default, metadata={"setting": Field(about, **known)})


@dataclass(frozen=True)
class Settings:
    """What a protocol may be told; the command line takes each field as an option.

    Fields are of type bool, int, float, str or a Literal, such a type or None, or a tuple of one type, and are made by
    `setting`. Each has a default.

    Raises:
        UserError: a value is out of range.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            field_of(field).check(field.name, getattr(self, field.name))


@dataclass(frozen=True)
class SizeSettings(Settings):
    """How large images are."""

    size: int | None = setting(
        None, "side of the images in pixels", at_least=1, unit="pixels", default_is="the model's native one"
    )


@dataclass(frozen=True)
class ImageSettings(SizeSettings):
    """How large images are, and how many of a task take part: for protocols that take them from `Task.draw`."""

    bank: int = setting(0, "training images at most, 0: all", at_least=0, hint="0 takes all images")
    queries: int = setting(0, "test images at most, 0: all", at_least=0, hint="0 takes all images")


def check_settings(settings: type) -> None:
    """Check that a class keeps what `Settings` says.

    Raises:
        BrokenContract: it does not; the message names the field.
    """
    frozen = dataclasses.is_dataclass(settings) and settings.__dataclass_params__.frozen
    if not (frozen and issubclass(settings, Settings)):
        raise BrokenContract("Settings must be a frozen dataclass derived from esvit_fast.evaluation.Settings")
    for field in dataclasses.fields(settings):
        if field.default is dataclasses.MISSING:
            raise BrokenContract(f"Settings.{field.name} has no default")
    shapes(settings)


def field_of(field: dataclasses.Field) -> Field:
    """What is known of a field of a dataclass."""
    return field.metadata.get("setting", Field())


class Shape(typing.NamedTuple):
    """The type of a setting, as a command line reads it."""

    type: type
    several: bool = False
    choices: tuple[Any, ...] = ()


def shapes(settings: type[Settings]) -> dict[str, Shape]:
    """The shapes of all settings, by name.

    Raises:
        BrokenContract: one has another type than `Settings` may have.
    """
    hints = typing.get_type_hints(settings)
    return {field.name: _shape(field.name, hints[field.name]) for field in dataclasses.fields(settings)}


def _shape(name: str, hint: Any) -> Shape:
    args = [arg for arg in typing.get_args(hint) if arg is not type(None)]
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return Shape(type(args[0]), choices=tuple(args))
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return _shape(name, args[0])._replace(several=True)
    if len(args) == 1 and origin is not tuple:
        return _shape(name, args[0])
    if hint not in (bool, int, float, str):
        raise BrokenContract(
            f"Settings.{name}: {hint} must be bool, int, float, str, a Literal or a tuple of such a type"
        )
    return Shape(hint)
