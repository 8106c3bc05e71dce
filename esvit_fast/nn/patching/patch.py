"""Patching and unpatching whole models."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from ..stand_in import stand_in_of
from ..window_attention import WindowAttention
from . import huggingface_swin, planned, published_swin, timm_swin, torchvision_swin
from .planned import Calls
from .probe import disagreement
from .redirect import Family, LinearRedirect, Redirect
from .report import Report, Row

_FAMILIES: dict[str, Family] = {
    **timm_swin.FAMILIES,
    **torchvision_swin.FAMILIES,
    **huggingface_swin.FAMILIES,
}
"""By the full name of the class, so that no library is imported that the model has not imported."""

_KNOWN_AND_LEFT: dict[str, tuple[str, str]] = {
    "torchvision.models.video.swin_transformer.ShiftedWindowAttention3d": (
        "torchvision Swin 3-D",
        "its windows have three axes, those of the operator two",
    ),
}


def patch_model(model: nn.Module, *, linears: bool = True) -> Report:
    """Let the window attention of a Swin model of timm, torchvision, Hugging Face, Microsoft or EsViT run on
    `esvit_fast.ops.window_attention`.

    Modules, parameters, state-dict names and hooks stay as they are: one method of each block is replaced, in that
    block only. Outputs and gradients are those of the original but for rounding. Before a block is patched, a copy
    of it is tried on a small map beside the original; a block that computes something else is left alone.

    A patched block runs its original method, with one warning, for calls that the operator cannot serve: attention
    dropout above 0 while training, attention weights asked for, hooks on modules that the operator passes by, or on all
    modules. What torch.compile makes of it does not warn. Where a block always returns its attention weights, as
    EsViT's does, it returns None in their place.

    Where a block was patched, every `torch.nn.Linear` of the model, which stays one, computes float32 on a CPU by
    `esvit_fast.ops.linear`; no other call changes, and what looks for linear layers, as quantization and adapters do,
    finds them.

    A patched model can be copied, pickled, compiled (patch first), trained, and replicated. `torch.jit.trace`,
    `torch.jit.script`, `torch.export` and exporters of ONNX get what the original would give them: plain torch, which
    runs where this library is not. Within `with esvit_fast.backend(...)` the operators stay in such a graph. `torch.fx`
    traces the original, too, and a warning says that its graph runs without patches. A layer or a block is scripted as
    a part of its model, not alone.

    Args:
        model: any module; its blocks are changed in place. Patching again changes nothing.
        linears: whether linear layers are changed too.

    Returns:
        What became of every window attention found, and which backends will run it and the linear layers, given where
        the weights are now and in what precision; none found is no error.

    Raises:
        TypeError: model is no module.
    """
    _check(model)
    rows, inner = [], set()
    for name, module in model.named_modules():
        row = None if module in inner else _patch(name, module)
        if row is not None:
            rows.append(row)
            inner.update(module.modules())
    if linears and any(row.patched for row in rows):
        for module in model.modules():
            if type(module) is nn.Linear and "forward" not in vars(module):
                LinearRedirect(module).install()
    return _report(model, rows)


def unpatch_model(model: nn.Module) -> Report:
    """Undo `patch_model`, in place and without a trace.

    Returns:
        A row for every module that was patched.

    Raises:
        TypeError: model is no module.
    """
    _check(model)
    rows = []
    for name, module in model.named_modules():
        found = stand_in_of(module)
        if found is None:
            continue
        wrapper = vars(module).get(found.method)
        if wrapper is not found:
            why = f"its {found.method} has been replaced by {type(wrapper).__name__} since; undo that first"
            rows.append(Row(name, found.kind, True, why))
            continue
        found.remove()
        if not isinstance(found, LinearRedirect):
            rows.append(Row(name, found.kind, False, f"{found.method} is the original again"))
    return Report(type(model).__name__, tuple(rows))


def _check(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {model!r} of type {type(model).__name__}; it must be a torch.nn.Module")


def _report(model: nn.Module, rows: list[Row]) -> Report:
    """The rows, and the backends that will run what they are about."""
    calls, layers = {}, []
    for module in model.modules():
        found = stand_in_of(module)
        if isinstance(module, WindowAttention):
            calls[module] = planned.call_of(module)
        elif isinstance(found, LinearRedirect):
            layers.append(module)
        elif isinstance(found, Redirect) and found.call is not None:
            calls[module] = found.call
    attention = planned.attention(calls.items())
    backends = {name: attention[module].backend for name, module in model.named_modules() if module in attention}
    rows = tuple(replace(row, backend=backends.get(row.name, "")) for row in rows)
    runs = planned.summed([*attention.values(), *planned.linears(layers).values()])
    return Report(type(model).__name__, rows, len(layers), runs)


def _patch(name: str, module: nn.Module) -> Row | None:
    if isinstance(module, WindowAttention):
        return Row(name, "esvit_fast", False, "it runs on the operator as it is")
    for owner in type(module).__mro__:
        full_name = f"{owner.__module__}.{owner.__qualname__}"
        if full_name in _KNOWN_AND_LEFT:
            kind, why = _KNOWN_AND_LEFT[full_name]
            return Row(name, kind, False, why)
        if full_name in _FAMILIES:
            family = _FAMILIES[full_name]
            overridden = getattr(type(module), family.method) is not vars(owner).get(family.method)
            why = f"{type(module).__name__} overrides {family.method} of {owner.__name__}" if overridden else None
            return _stand_in(name, module, (family,), why)
    if families := published_swin.candidates(module):
        return _stand_in(name, module, families)
    if hasattr(module, "relative_position_bias_table") and hasattr(module, "num_heads"):
        return Row(name, type(module).__name__, False, "it is in no block of a known kind")
    return None


def _stand_in(name: str, module: nn.Module, families: tuple[Family, ...], why: str | None = None) -> Row:
    """Patch with the first of the families that the module turns out to belong to."""
    family, method = families[0], families[0].method
    present, before = vars(module).get(method), stand_in_of(module)
    if before is not None:
        return Row(name, before.kind, True, "it was patched before")
    if present is not None:
        why = f"its {method} has been replaced by {type(present).__name__} already; undo that first"
    if why is None:
        for family in families:
            calls = Calls()
            why = family.refuse(module) or disagreement(module, family, calls)
            if why is None:
                Redirect(module, family, next(iter(calls.seen), None)).install()
                break
    return Row(name, family.kind, why is None, why or f"{method} runs on the operator{family.note}")
