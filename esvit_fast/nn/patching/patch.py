"""Patching and unpatching whole models."""

from __future__ import annotations

from torch import nn

from ..linear import StandIn
from ..window_attention import WindowAttention
from . import huggingface_swin, published_swin, timm_swin, torchvision_swin
from .probe import disagreement
from .redirect import Family, Redirect, redirects
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
    dropout above 0 while training, attention weights asked for, hooks on modules that the operator passes by. What
    torch.compile makes of it does not warn. Where a block always returns its attention weights, as EsViT's does, it
    returns None in their place.

    Where a block was patched, every plain `torch.nn.Linear` of the model becomes a subclass, which computes float32 on
    a CPU by `esvit_fast.ops.linear`; no other call changes. What asks for the very class `torch.nn.Linear`, as
    quantisation does, needs `linears=False`.

    A patched model can be copied, pickled, compiled (patch first) and trained. `nn.DataParallel` cannot run it: its
    replicas share what stands in for the method; use `DistributedDataParallel`.

    Args:
        model: any module; its blocks are changed in place. Patching again changes nothing.
        linears: whether linear layers are changed too.

    Returns:
        What became of every window attention found; none found is no error.

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
    for module in model.modules():
        if linears and any(row.patched for row in rows) and type(module) is nn.Linear:
            module.__class__ = StandIn
    count = sum(type(module) is StandIn for module in model.modules())
    return Report(type(model).__name__, tuple(rows), count)


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
        for redirect in redirects(module):
            del vars(module)[redirect.method]
            rows.append(Row(name, redirect.kind, False, f"{redirect.method} is the original again"))
        if type(module) is StandIn:
            module.__class__ = nn.Linear
    return Report(type(model).__name__, tuple(rows))


def _check(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {model!r} of type {type(model).__name__}; it must be a torch.nn.Module")


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
    present = vars(module).get(method)
    if isinstance(present, Redirect):
        return Row(name, present.kind, True, "it was patched before")
    if present is not None:
        why = f"its {method} has been replaced by {type(present).__name__} already; undo that first"
    if why is None:
        for family in families:
            why = family.refuse(module) or disagreement(module, family)
            if why is None:
                vars(module)[method] = Redirect(module, family)
                break
    return Row(name, family.kind, why is None, why or f"{method} runs on the operator{family.note}")
