"""Where the images of a specification are, whatever folder it is read in."""

from __future__ import annotations

import glob
import os

from .files import is_pattern
from .opening import SCHEMES


def absolute(spec: str) -> str:
    """A specification of `open_source` whose path begins at the root; one that names no path stays as it is."""
    scheme, _, rest = spec.partition(":")
    if not spec or scheme == "sample" or "://" in spec or scheme in SCHEMES:
        return spec
    if scheme == "torchvision":
        name, _, root = rest.partition("@")
        return f"torchvision:{name}@{_absolute(root)}" if root else spec
    return _absolute(spec)


def _absolute(path: str) -> str:
    path = os.path.expanduser(path)
    here = os.getcwd()
    if is_pattern(path) and not os.path.exists(path):
        if os.path.isabs(path) or "{" in here:  # braces cannot be told from those of the pattern
            return path
        here = glob.escape(here)
    return os.path.join(here, path)
