"""The user's own backbones, methods, protocols and sources: modules that register them."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path

from .errors import UserError

VARIABLE = "ESVIT_FAST_PLUGINS"
GROUP = "esvit_fast"

_loaded: set[str] = set()


def load_plugins() -> None:
    """Import what ESVIT_FAST_PLUGINS names, modules or .py files between commas, and what installed packages announce
    as entry points of the group `esvit_fast`; each once.

    Raises:
        UserError: a module or file is not there, or cannot be imported.
    """
    named = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    for name in named:
        if name in _loaded:
            continue
        _loaded.add(name)  # before, as it may ask for what is registered
        try:
            _import(name, f"{VARIABLE}={os.environ[VARIABLE]!r}: {name}")
        except BaseException:
            _loaded.remove(name)
            raise
    if GROUP not in _loaded:
        _loaded.add(GROUP)
        for entry in entry_points(group=GROUP):
            entry.load()


def _import(name: str, where: str) -> None:
    path = Path(name).expanduser()
    try:
        if path.suffix != ".py":
            importlib.import_module(name)
            return
        if not path.is_file():
            raise UserError(f"{where} is no file; correct it, or unset {VARIABLE}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        sys.modules[path.stem] = module = importlib.util.module_from_spec(spec)  # workers find its classes there
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[path.stem]
            raise
    except ImportError as error:
        raise UserError(f"{where} cannot be imported: {error}; correct it, or unset {VARIABLE}") from error
