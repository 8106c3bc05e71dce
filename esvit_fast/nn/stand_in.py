"""Standing in for a method of one foreign module, which stays of its class."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as modules


@torch.jit.ignore  # whoever scripts the module compiles the method of its class
class StandIn:
    """A callable in a module's `__dict__` that hides the method of the same name.

    It is no bound method: those cannot be pickled under another name. A copy of the module, and a replica that
    `nn.DataParallel` makes of it, have a copy that calls the copied module. Its module holds it and not the other way
    round, so that a patched model is freed when the last reference to it goes, without the cycle collector.

    Args:
        module: whose method is hidden.
        kind: of the module, in words.
        method: name of the hidden method.
    """

    def __init__(self, module: nn.Module, kind: str, method: str):
        self._owner, self.kind, self.method = weakref.ref(module), kind, method

    @property
    def module(self) -> nn.Module:
        """Whose method is hidden.

        Raises:
            ReferenceError: it is gone.
        """
        module = self._owner()
        if module is None:
            raise ReferenceError(
                f"the {self.kind} whose {self.method} this is has been freed; keep its model, or copy it by deepcopy"
            )
        return module

    def __getstate__(self) -> dict[str, Any]:
        state = vars(self) | {"module": self.module}
        del state["_owner"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        self._owner = weakref.ref(state.pop("module"))
        vars(self).update(state)

    def __call__(self, *args, **kwargs):
        """What the method does."""
        raise NotImplementedError

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(original(self.module, self.method))

    def install(self) -> None:
        """Hide the method."""
        vars(self.module).update({self.method: self, _REPLICATE: self.replicate})

    def remove(self) -> None:
        """Show the method again."""
        for name in (self.method, _REPLICATE):
            del vars(self.module)[name]

    def replicate(self) -> nn.Module:
        """What `nn.DataParallel` calls; a replica shares the `__dict__`'s values with its module."""
        replica = type(self.module)._replicate_for_data_parallel(self.module)
        mine = type(self).__new__(type(self))
        mine.__setstate__(self.__getstate__() | {"module": replica})
        mine.install()
        return replica


_REPLICATE = "_replicate_for_data_parallel"


def original(module: nn.Module, method: str) -> Callable:
    """The method that the module's class defines."""
    return getattr(type(module), method).__get__(module)


def stand_in_of(module: nn.Module) -> StandIn | None:
    """The one that was installed in a module, whether or not somebody has wrapped it since."""
    return getattr(vars(module).get(_REPLICATE), "__self__", None)


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module does more than its class's forward, or what stands in for that."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(map(len, hooks)) or hooks_of_all() or not isinstance(vars(module).get("forward"), StandIn | None)


def hooks_of_all() -> bool:
    """Whether hooks of all modules are registered, but for torch's own that only note which module runs."""
    every = (
        modules._global_forward_hooks,
        modules._global_forward_pre_hooks,
        modules._global_backward_hooks,
        modules._global_backward_pre_hooks,
    )
    found = (hook for hooks in every if hooks for hook in hooks.values())
    return any(getattr(hook, "__module__", None) != _NOTES for hook in found)


_NOTES = "torch.utils.module_tracker"
"""Of `FlopCounterMode`, which is to count what the operators do."""
