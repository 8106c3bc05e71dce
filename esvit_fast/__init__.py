"""EsViT, fast: self-supervised multi-stage windowed vision transformers, with their operators as building blocks."""

import typing

if typing.TYPE_CHECKING:  # torch takes seconds to import, and `esvit-fast --help` needs none of it
    from .models import create_model, list_models
    from .nn import patch_model, unpatch_model
    from .ops import backend, plan

__version__ = "0.1.0"
__all__ = ["__version__", "backend", "create_model", "list_models", "patch_model", "plan", "unpatch_model"]

_ROOMS = {
    "backend": "ops",
    "create_model": "models",
    "list_models": "models",
    "patch_model": "nn",
    "plan": "ops",
    "unpatch_model": "nn",
}


def __getattr__(name: str):
    if name not in _ROOMS:
        raise AttributeError(f"module 'esvit_fast' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"typing"})
