"""Methods by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..registry import Registry
from .method import Method, missing_of

Class = TypeVar("Class", bound=type[Method])


def _check(name: str, method: type[Method]) -> None:
    if missing := missing_of(method):
        raise TypeError(f"the method {name!r} has no {' and no '.join(missing)}; see esvit_fast.methods.Method")


METHODS: Registry[type[Method]] = Registry("method", _check)


def method_of(config: Any) -> type[Method]:
    """The class of a run's method.

    Raises:
        ValueError: there is none of that name.
    """
    return METHODS.find(config.method.name, "method.name")


def register_method(name: str) -> Callable[[Class], Class]:
    """Let runs pretrain with a method: a decorator of its class, a `Method`."""
    return lambda method: METHODS.register(method, name)
