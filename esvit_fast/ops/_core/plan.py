"""Which implementation runs an operator: a pure function of facts, so that any machine's choice is tested anywhere."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch.autograd import forward_ad

from ...errors import UserError
from . import native
from .proven import unproven

ORDER = ("cuda", "triton", "cpu", "chunked", "reference")


_RUNS_ON = {"cuda": "cuda", "triton": "cuda", "cpu": "cpu"}
"""The device whose tensors a backend takes; that of others is no loss worth a warning."""


class BackendError(UserError, RuntimeError):
    """A backend that was asked for cannot run an operator; the message gives every reason."""


@dataclass(frozen=True)
class Facts:
    """All that a plan may depend on.

    Attributes:
        device_type: "cpu", "cuda", …
        capability: compute capability such as (9, 0); None without a GPU.
        dtype: of the operator's first input.
        shapes: of the inputs, by argument name.
        options: the operator's other arguments, by name.
        requires_grad: whether a backward pass may follow.
        deterministic: whether bitwise reproducible gradients are required.
        forced: the backend that the caller insists on, or None.
        unproven: whether kernels may be chosen that have not run on such a GPU.
    """

    device_type: str
    dtype: torch.dtype
    shapes: Mapping[str, tuple[int, ...]]
    options: Mapping[str, object] = field(default_factory=dict)
    capability: tuple[int, int] | None = None
    requires_grad: bool = False
    deterministic: bool = True
    forced: str | None = None
    unproven: bool = False

    def of_result(self) -> Facts:
        """The same with the dtype of the result, where that is one of the options."""
        return replace(self, dtype=self.options.get("dtype", self.dtype))


@dataclass(frozen=True)
class Plan:
    """The chosen backend, its launch configuration, why it was chosen, and why better ones were not."""

    backend: str
    config: Mapping[str, int]
    why: str
    refused: Mapping[str, str] = field(default_factory=dict)


Rule = Callable[[Facts], str | None]
"""Says why a backend cannot run with these facts, or None if it can."""

Configure = Callable[[Facts], Mapping[str, int]]
"""Gives the launch configuration for facts that a backend's rule does not refuse."""

_RULES: dict[tuple[str, str], Rule] = {}
_CONFIGURE: dict[tuple[str, str], Configure] = {}


def register_rule(op: str, backend: str, rule: Rule, configure: Configure | None = None) -> None:
    """Let `plan` consider a backend for an operator."""
    if backend not in ORDER:
        raise UserError(f"backend={backend!r} must be one of {', '.join(ORDER)}")
    _RULES[op, backend] = rule
    if configure is not None:
        _CONFIGURE[op, backend] = configure


def plan(op: str, facts: Facts, rules: Mapping[tuple[str, str], Rule] = _RULES) -> Plan:
    """Choose the first backend, in the order of `ORDER`, that can run.

    Raises:
        BackendError: no backend can run, or the forced one cannot; with every reason.
        UserError: the forced backend or the operator does not exist.
    """
    if facts.forced is not None and facts.forced not in ORDER:
        raise UserError(f"backend={facts.forced!r} must be one of {', '.join(ORDER)}")
    if not any(name == op for name, _ in rules):
        raise UserError(f"op={op!r} is not an operator; known: {', '.join(sorted({name for name, _ in rules}))}")
    refused: dict[str, str] = {}
    for backend in [b for b in ORDER if (op, b) in rules] if facts.forced is None else (facts.forced,):
        rule = rules.get((op, backend))
        reason = f"this version has no {backend} implementation of {op}" if rule is None else rule(facts)
        if reason is None and not (facts.forced or facts.unproven):
            reason = unproven(op, backend, facts.capability)
        if reason is None:
            why = "it was asked for" if facts.forced else "it is the first that can run"
            configure = _CONFIGURE.get((op, backend))
            return Plan(backend, {} if configure is None else configure(facts), why, refused)
        refused[backend] = reason
    reasons = "; ".join(f"{backend}: {reason}" for backend, reason in refused.items())
    raise BackendError(f"no backend can run {op}: {reasons}")


def operators() -> list[str]:
    """All operators, in the order of their names."""
    return sorted({op for op, _ in _RULES})


def implementations(op: str) -> tuple[str, ...]:
    """The backends that have an operator, the preferred ones first."""
    return tuple(backend for backend in ORDER if (op, backend) in _RULES)


# a plain list, since torch.compile traces no context variables
_forced: list[str | None] = [None]


@contextlib.contextmanager
def backend(name: str | None) -> Iterator[None]:
    """Force a backend for all operators within a `with` block; None lets `plan` choose again.

    A model that is traced or exported within keeps its operators, which else become plain torch.

    Raises:
        UserError: there is no such backend.
    """
    if name is not None and name not in ORDER:
        raise UserError(f"backend={name!r} must be one of {', '.join(ORDER)}")
    _forced.append(name)
    try:
        yield
    finally:
        _forced.pop()


def capability_of(device: torch.device) -> tuple[int, int] | None:
    """The compute capability of a GPU; None of what is none."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def asked_for_unproven() -> bool:
    """Whether kernels may be chosen on GPUs that no record is of."""
    asked = os.environ.get("ESVIT_FAST_UNPROVEN", "")
    if asked not in ("", "0", "1"):
        raise UserError(f"ESVIT_FAST_UNPROVEN={asked!r} must be 0 or 1")
    return asked == "1"


def transformed() -> bool:
    """Whether a transform of torch.func or a forward-mode derivative is under way, which operators have none of."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def facts_here(
    device: torch.device,
    dtype: torch.dtype,
    shapes: Mapping[str, tuple[int, ...]],
    options: Mapping[str, object],
    requires_grad: bool = False,
    forced: str | None = None,
) -> Facts:
    """The facts of a call on this machine, under the settings that hold now."""
    return Facts(
        device_type=device.type,
        dtype=dtype,
        shapes=shapes,
        options=options,
        capability=capability_of(device),
        requires_grad=requires_grad,
        forced=forced or _forced[-1] or os.environ.get("ESVIT_FAST_BACKEND") or None,
        unproven=asked_for_unproven(),
    )


@torch.compiler.assume_constant_result  # torch.compile takes torch.compiler.is_exporting() for true
def exported() -> bool:
    """Whether a call is recorded for whoever may lack this library: by torch.jit.trace, torch.export, or for ONNX.

    Modules record plain torch then, unless `with backend(…)` says that operators shall stay.
    """
    return _forced[-1] is None and (torch.jit.is_tracing() or torch.compiler.is_exporting())


def choose(
    op: str, tensors: Mapping[str, torch.Tensor | None], options: Mapping[str, object], forced: str | None
) -> str:
    """Gather the facts of a call, plan, and say once when a faster backend that exists had to be passed over."""
    if transformed():
        raise NotImplementedError(
            f"{op} has reverse-mode derivatives only and no torch.func transforms; call esvit_fast.reference.{op} there"
        )
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    first = next(iter(given.values()))
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
    needed = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given.values())
    facts = facts_here(first.device, first.dtype, shapes, options, needed, forced)
    chosen = plan(op, facts)
    passed_over = {
        b: reason
        for b, reason in chosen.refused.items()
        if _RUNS_ON.get(b, facts.device_type) == facts.device_type
        # between two kernels, nobody knows that one would have been better
        and not (chosen.backend in _RUNS_ON and reason == unproven(op, b, facts.capability))
    }
    if passed_over:
        _warn_once(op, chosen.backend, tuple(passed_over.items()))
    return chosen.backend


_warned: set[tuple] = set()


class BackendWarning(UserWarning):
    """A faster backend that exists was passed over."""


def _warn_once(op: str, chosen: str, passed_over: tuple[tuple[str, str], ...]) -> None:
    unbuilt = native.CPU_MISSING is not None and passed_over == (("cpu", native.CPU_MISSING),)
    key = ("", native.CPU_MISSING) if unbuilt else (op, chosen, passed_over)
    # torch.compile cannot trace a warning
    if key in _warned or torch.compiler.is_compiling():
        return
    _warned.add(key)
    if unbuilt:  # once for all operators
        warnings.warn(
            f"plain torch computes, which takes longer, as {native.CPU_MISSING}", BackendWarning, stacklevel=4
        )
        return
    reasons = "; ".join(f"{name}: {reason}" for name, reason in passed_over)
    warnings.warn(
        f"{op} runs on {chosen} because {reasons}; pass backend={chosen!r} to accept this silently",
        BackendWarning,
        stacklevel=4,
    )
