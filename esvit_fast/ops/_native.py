"""The compiled libraries: private operators that implementations call, if they were built and load."""

from __future__ import annotations

from pathlib import Path

import torch

_FOLDER = Path(__file__).resolve().parent.parent


def _load(stem: str) -> str | None:
    """Load a library; say why it is not there, or None."""
    files = sorted(_FOLDER.glob(f"{stem}*.so"))
    if not files:
        return f"the library {stem} was not built; install with `pip install --no-build-isolation .` and a C++ compiler"
    try:
        torch.ops.load_library(files[0])
    except OSError as error:
        return f"the library {files[0].name} does not load: {error}"
    return None


CPU_MISSING = _load("_C_cpu")
"""Why there are no CPU kernels, or None if there are."""
