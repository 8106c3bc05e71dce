"""Methods by name."""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeVar

from ..config.method import OURS
from ..registry import BrokenContract, Registry, missing_of
from .method import REQUIRED, Method

Class = TypeVar("Class", bound=type[Method])


def _check(name: str, method: type[Method]) -> None:
    if missing := missing_of(method, Method, REQUIRED):
        raise BrokenContract(f"the method {name!r} has no {' and no '.join(missing)}; see esvit_fast.methods.Method")


METHODS: Registry[type[Method]] = Registry("method", _check)


def method_of(config: Any) -> type[Method]:
    """The class of a run's method.

    Raises:
        UserError: there is none of that name.
    """
    name = config.method.name
    if name in OURS:
        import_module(f".{name}", __package__)
    return METHODS.find(name, "method.name")


def register_method(method: Class) -> Class:
    """Let runs pretrain with a method: a decorator of its class, whose `Settings` say its name."""
    return METHODS.register(method, getattr(getattr(method, "Settings", method), "name", method.__name__))
