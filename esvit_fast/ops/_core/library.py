"""The one `torch.library` of the project: schemas, shapes and autograd in Python, implementations by backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .flops import register_flops

_LIBRARY = torch.library.Library("esvit_fast", "DEF")
_IMPLEMENTATIONS: dict[tuple[str, str], Callable] = {}


def define(name: str, schema: str, fake: Callable, flops: Callable[..., int] | None = None) -> None:
    """Define `esvit_fast::name`. Its last argument is `str backend`, by which calls find their implementation.

    Autocast ends at the operator: an implementation computes in the precision that its docstring promises.

    Args:
        flops: of its matrix products, from all arguments but the backend; None where it has none.
    """

    def dispatch(*args):
        with torch.autocast(args[0].device.type, enabled=False):
            return _IMPLEMENTATIONS[name, args[-1]](*args[:-1])

    _LIBRARY.define(name + schema)
    _LIBRARY.impl(name, dispatch, "CompositeExplicitAutograd")
    torch.library.register_fake(f"esvit_fast::{name}", fake, lib=_LIBRARY)
    if flops is not None:
        register_flops(name, getattr(torch.ops.esvit_fast, name), flops)


def implement(name: str, backend: str, implementation: Callable) -> None:
    """Give an operator its implementation for one backend."""
    _IMPLEMENTATIONS[name, backend] = implementation


def differentiate(
    name: str, backward: Callable, setup_context: Callable, second: tuple[Callable, Callable] | None = None
) -> None:
    """Register autograd for `name`, whose backward pass is the operator `name_backward`.

    `second` are the backward and setup_context of that one; without it the operator is differentiable once.
    """

    def refuse(ctx, *grads):
        raise NotImplementedError(
            f"esvit_fast::{name} is differentiable once; for second derivatives call esvit_fast.reference.{name}"
        )

    torch.library.register_autograd(f"esvit_fast::{name}", backward, setup_context=setup_context, lib=_LIBRARY)
    backward, setup_context = second or (refuse, None)
    torch.library.register_autograd(f"esvit_fast::{name}_backward", backward, setup_context=setup_context, lib=_LIBRARY)


def must_scale(grad: Tensor) -> bool:
    """Whether gradients that were made for a factor of 1 must go through the operator that scales them.

    A CPU's numbers can be looked at, but for those that are only traced; a second derivative has to be refused.
    """
    if grad.device.type != "cpu" or type(grad) is not Tensor or torch._C._are_functorch_transforms_active():
        return True
    return torch.is_grad_enabled() or bool(grad != 1)


def linearize(function: Callable, inputs: Sequence[Tensor]) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
    """What a function gives, and the function that turns a gradient of that into gradients of the inputs, once."""
    # operators are implemented below autograd, which does not record there unless its key is let in again
    with torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False), torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in inputs]
        out = function(*inputs)

    def back(cotangent: Tensor) -> tuple[Tensor, ...]:
        with torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False):
            return torch.autograd.grad(out, inputs, cotangent, materialize_grads=True)

    return out.detach(), back


def vjp(function: Callable, inputs: Sequence[Tensor], cotangent: Tensor) -> tuple[Tensor, ...]:
    """Gradients of an oracle, by running it again."""
    return linearize(function, inputs)[1](cotangent)
