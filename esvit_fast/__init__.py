"""EsViT, fast: self-supervised multi-stage windowed vision transformers, with their operators as building blocks."""

__version__ = "0.1.0"

_LAZY = {
    "create_model": "models",
    "list_models": "models",
    "patch_model": "nn",
    "unpatch_model": "nn",
    "backend": "ops",
    "plan": "ops",
}
__all__ = ["__version__", *_LAZY]


def __getattr__(name: str):
    # torch takes seconds to import, and `esvit-fast --help` needs none of it
    if name not in _LAZY:
        raise AttributeError(f"module 'esvit_fast' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
