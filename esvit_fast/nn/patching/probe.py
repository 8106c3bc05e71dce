"""Trying a replacement beside the original before it takes its place, so that parity is seen and not assumed."""

from __future__ import annotations

import copy

import torch
from torch import nn

from .attend import noise
from .redirect import Family, original

TOLERANCE = 1e-2
"""Largest difference allowed, in units of the largest output: above TF32's, below that of any other semantics."""


@torch.no_grad()
def disagreement(module: nn.Module, family: Family) -> str | None:
    """Why `family.run` cannot stand in for the module's method, or None.

    Both run on a float32 copy without hooks, whose biases and norms are moved off their initial values, since much is
    the same where those are zero.
    """
    tensors = [*module.parameters(), *module.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        return "it has no weights yet (meta device); patch it once they are loaded"
    device = tensors[0].device.type
    try:
        twin = _twin(module)
        args = family.example(twin)
        with torch.autocast(device, enabled=False):
            expected = original(twin, family.method)(*args)
            found = family.run(twin, *args)
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
        return f"trying it failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if isinstance(expected, tuple) != isinstance(found, tuple):
        return "its method returns something else"
    if isinstance(expected, tuple):
        expected, found = expected[0], found[0]
    error = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
    return None if error <= TOLERANCE else f"it computes something else: outputs differ by {error:.1g}"


def _twin(module: nn.Module) -> nn.Module:
    twin = copy.deepcopy(module).eval().float()
    for part in twin.modules():
        for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks):
            hooks.clear()
    for name, parameter in twin.named_parameters():
        if parameter.ndim == 1 or "bias" in name:
            parameter.add_(noise(tuple(parameter.shape), parameter), alpha=0.5)
    return twin
