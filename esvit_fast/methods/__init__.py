"""The mathematics of self-supervision: networks, losses, teachers and centres. No files, no ranks."""

import typing

if typing.TYPE_CHECKING:  # a method's settings are read without torch, which takes seconds to import
    from .esvit import EsViT, MultiCropNetwork, Projection
    from .losses.esvit import EsViTLoss, EsViTStatistics
    from .losses.koleo import koleo
    from .method import Method, StepOutput
    from .registry import METHODS, method_of, register_method

_PLACES = {
    "METHODS": "registry",
    "EsViT": "esvit",
    "EsViTLoss": "losses.esvit",
    "EsViTStatistics": "losses.esvit",
    "Method": "method",
    "MultiCropNetwork": "esvit",
    "Projection": "esvit",
    "StepOutput": "method",
    "koleo": "losses.koleo",
    "method_of": "registry",
    "register_method": "registry",
}
__all__ = [
    "METHODS",
    "EsViT",
    "EsViTLoss",
    "EsViTStatistics",
    "Method",
    "MultiCropNetwork",
    "Projection",
    "StepOutput",
    "koleo",
    "method_of",
    "register_method",
]


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_PLACES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"typing"})
