"""Trying a replacement beside the original before it takes its place, so that parity is seen and not assumed."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..stand_in import hooks_of_all, original
from .planned import Calls
from .redirect import Family

TOLERANCE = 5e-3
"""Largest difference allowed, in units of the largest output: above TF32's, below that of any other semantics."""


@torch.no_grad()
def disagreement(module: nn.Module, family: Family, calls: Calls) -> str | None:
    """Why `family.run` cannot stand in for the module's method, or None; `calls` notes what it calls.

    Both run on a float32 copy without hooks, with weights of a size that makes attention uneven and with biases and
    norms off their initial values: much is the same where those are zero.
    """
    tensors = [*module.parameters(), *module.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        return "it has no weights yet (meta device); patch it once they are loaded"
    if hooks_of_all():  # they may change what it gives, and it would be tried against itself
        return "hooks of all modules are registered, with which it cannot be tried; patch it before them"
    device = tensors[0].device.type
    try:
        twin = _twin(module)
        args = family.example(twin)
        with torch.autocast(device, enabled=False):
            expected = original(twin, family.method)(*args)
            with calls:
                found = family.run(twin, *args)
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
        return f"trying it failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if type(expected) is not type(found):
        return f"it returns a {type(expected).__name__}, which the original of its kind does not"
    if isinstance(expected, tuple):
        expected, found = expected[0], found[0]
    error = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
    return None if error <= TOLERANCE else f"it computes something else: outputs differ by {error:.1g}"


def _twin(module: nn.Module) -> nn.Module:
    # results kept from an earlier call cannot be copied by deepcopy
    kept = (value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor))
    twin = copy.deepcopy(module, {id(value): value.detach().clone() for value in kept})
    twin.eval()  # some return None
    twin.float()
    for part in twin.modules():
        for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks):
            hooks.clear()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in twin.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        if parameter.ndim == 1 or "bias" in name:
            parameter.add_(noise, alpha=0.5)
        elif parameter.ndim == 2:
            parameter.copy_(noise / parameter.shape[1] ** 0.5)
    return twin
