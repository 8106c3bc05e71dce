"""Outputs and gradients of a model before and after patching, side by side."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from esvit_fast.nn import patch_model, unpatch_model
from esvit_fast.nn.patching import Report

TOLERANCE = 1e-5


def shaken(model: nn.Module) -> nn.Module:
    """The model in eval mode with every parameter off its initial value, so that nothing hides behind a zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise, alpha=0.3 if parameter.ndim == 1 or "bias" in name or "logit" in name else 0.02)
    return model.eval()


def image(size: tuple[int, ...], batch: int = 1) -> Tensor:
    return torch.randn(batch, *size, generator=torch.Generator().manual_seed(2))


def first(output) -> Tensor:
    """The tensor of interest: the first of what a model returns."""
    return output if isinstance(output, Tensor) else output[0]


def results(model: nn.Module, x: Tensor, call: Callable = nn.Module.__call__) -> dict[str, Tensor]:
    """Output, and gradients of the input and all parameters."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    output = first(call(model, x))
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
    (output * weight).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"output": output.detach(), "input": x.grad, **found}


def largest_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference, in units of the largest value of its tensor.

    Tensors whose values are a thousandth of the largest of all gradients or less are all cancellation (the gradient of
    a key's bias is zero but for rounding and padding) and are measured in that unit.
    """
    assert found.keys() == expected.keys()
    floor = 1e-3 * max(x.abs().max() for name, x in expected.items() if name != "output")
    units = {name: x.abs().max().clamp(min=floor * (name != "output")) for name, x in expected.items()}
    return max(float((found[name] - x).abs().max() / units[name]) for name, x in expected.items())


def check(model: nn.Module, x: Tensor, call: Callable = nn.Module.__call__, patched: int | None = None) -> Report:
    """Patch, compare, unpatch, compare again; `patched`: how many blocks, or None for all that were found."""
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    contents = {name: set(vars(module)) for name, module in model.named_modules()}
    before = results(model, x, call)
    report = patch_model(model)
    assert len(report.patched) == (len(report) if patched is None else patched), str(report)
    assert len(report) > 0
    after = results(model, x, call)
    error = largest_error(after, before)
    assert error < TOLERANCE, error
    assert not torch.equal(after["input"], before["input"])  # another way of computing, so other rounding
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert [row.name for row in unpatch_model(model)] == [row.name for row in report.patched]
    assert {name: set(vars(module)) for name, module in model.named_modules()} == contents
    again = results(model, x, call)
    assert all(torch.equal(again[name], value) for name, value in before.items())
    return report
