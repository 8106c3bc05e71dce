"""No circle of imports: every module can be read, and imported, after those that it needs."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from .tree import BENCHMARKS, PACKAGE, imported_modules, module_files


def circle(folder: Path, package: str) -> list[str]:
    """The modules of a circle, each of which imports the next, anywhere in its code; none if there is no circle."""
    files = module_files(folder)
    needs = {
        module: {target for target in imported_modules(module, path, set(files), package) if target != module}
        for module, path in files.items()
    }
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return []


@pytest.mark.parametrize(("folder", "package"), [(PACKAGE, "esvit_fast"), (BENCHMARKS, "benchmarks")])
def test_there_is_no_circle(folder, package):
    assert circle(folder, package) == []


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"a.py": "from .b import x", "b.py": "def f():\n    from . import a"}, ["a", "b", "a"]),
        (
            {"a/__init__.py": "from .b import x", "a/b.py": "from pack.c import y", "c.py": "import pack.a"},
            ["a", "a.b", "c", "a"],
        ),
        ({"a/__init__.py": "from .b import x", "a/b.py": "from .c import y", "a/c.py": "import torch"}, []),
        ({"a.py": "from .b import x", "b.py": "from . import c", "c.py": ""}, []),
    ],
)
def test_a_planted_circle_is_found(tmp_path, files, found):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    whole = circle(tmp_path, "pack")
    assert len(whole) == len(found) and set(whole) == set(found)
