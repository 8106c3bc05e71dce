"""Standing in for one method of one module, and stepping aside for calls that the operator cannot serve."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...ops._core.plan import exported, transformed
from ..linear import linear
from ..stand_in import StandIn, has_hooks, hooks_of_all
from .planned import Call


def _nothing(module: nn.Module) -> str | None:
    return None


@dataclass(frozen=True)
class Family:
    """A class of modules whose method `method` owns window attention, and the function that replaces it.

    Attributes:
        kind: in words.
        method: the method to stand in for.
        run: run(module, *args, **kwargs) does what the method does.
        example: arguments, as a tuple, with which module.method can be tried.
        refuse: says why a module of the class cannot be patched, or None.
        note: what else a user should know, for the report.
    """

    kind: str
    method: str
    run: Callable
    example: Callable[[nn.Module], tuple]
    refuse: Callable[[nn.Module], str | None] = _nothing
    note: str = ""


class Redirect(StandIn):
    """Runs a family's replacement, or the original where only that can; `call` is one that it made."""

    def __init__(self, module: nn.Module, family: Family, call: Call | None):
        super().__init__(module, family.kind, family.method)
        self.run, self.call = family.run, call

    def __call__(self, *args, **kwargs):
        if exported():  # as the model that it came as would be
            return getattr(type(self.module), self.method)(self.module, *args, **kwargs)
        if reason := _unserved(args):
            return fall_back(self.module, self.method, reason, *args, **kwargs)
        return self.run(self.module, *args, **kwargs)


def _unserved(args: tuple) -> str | None:
    """Why the operator cannot take the call, whatever the family, or None."""
    if any(isinstance(x, torch.fx.Proxy) for x in args):
        return "torch.fx traces it, and what it makes of it runs without patches"
    if hooks_of_all():
        return "hooks of all modules are registered, and the operator passes some modules by"
    return "the operator has reverse-mode derivatives only, and no torch.func transforms" if transformed() else None


class LinearRedirect(StandIn):
    """Lets a `torch.nn.Linear`, which stays one, take the fast path where there is one."""

    def __init__(self, module: nn.Module):
        super().__init__(module, "linear layer", "forward")

    def __call__(self, input: Tensor) -> Tensor:
        return linear(input, self.module.weight, self.module.bias)


def fall_back(module: nn.Module, method: str, reason: str, *args, **kwargs):
    """Run the original, and say why once."""
    kind = type(module).__name__
    # torch.compile cannot trace a warning
    if (kind, reason) not in _warned and not torch.compiler.is_compiling():
        _warned.add((kind, reason))
        warnings.warn(f"a patched {kind} runs its original attention because {reason}", stacklevel=4)
    return getattr(type(module), method)(module, *args, **kwargs)


_warned: set[tuple[str, str]] = set()


def hooked(module: nn.Module, *children: str) -> str | None:
    """Why calls must reach the module and these of its children, which the operator would pass by; or None."""
    for name in ("", *children):
        part = getattr(module, name, None) if name else module
        if isinstance(part, nn.Module) and has_hooks(part):
            return f"{name or type(module).__name__} has hooks or a forward of its own"
    return None


def dropping(dropout: nn.Module) -> str | None:
    """Why attention weights would be dropped, which the operator does not do; or None."""
    if isinstance(dropout, nn.Identity):
        return None
    if not isinstance(dropout, nn.Dropout):
        return "what acts on its attention weights is no plain dropout"
    return DROPS if dropout.training and dropout.p else None


DROPS = "attention weights are dropped while training; set the attention dropout to 0 to use the operator"
