"""No private doors: what a room keeps to itself, names with an underscore, no other room imports or reads.

A room is a folder, or a module beside the folders: `ops._core` is private to `ops`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from .tree import BENCHMARKS, PACKAGE, imports, module_files

DOORS = {
    "esvit_fast.cli.doctor -> esvit_fast.ops._core",
    "esvit_fast.models.swin -> esvit_fast.ops._core",
    "esvit_fast.nn.linear -> esvit_fast.ops._core",
    "esvit_fast.nn.patching.planned -> esvit_fast.ops._core",
    "esvit_fast.nn.patching.redirect -> esvit_fast.ops._core",
    "esvit_fast.nn.recompute -> esvit_fast.ops._core",
    "esvit_fast.nn.window_attention -> esvit_fast.ops._core",
    "esvit_fast.training.planning.watch -> esvit_fast.ops._core",
    # launch tables are what these are about: those of kernels/, and those of CUDA
    "esvit_fast.ops._core.cuda_tables -> esvit_fast.kernels._tables",
    "esvit_fast.ops.multicrop_augment.triton -> esvit_fast.kernels._tables",
    "esvit_fast.ops.prototype_cross_entropy.triton -> esvit_fast.kernels._prototype_cross_entropy",
    "esvit_fast.ops.prototype_cross_entropy.triton -> esvit_fast.kernels._tables",
    "esvit_fast.ops.region_match.triton -> esvit_fast.kernels._tables",
    "esvit_fast.ops.soft_cross_entropy.triton -> esvit_fast.kernels._tables",
    "esvit_fast.ops.window_attention.triton -> esvit_fast.kernels._tables",
    "benchmarks.compiled.cuda_manifest -> esvit_fast.ops._core",
    "benchmarks.compiled.manifest -> esvit_fast.kernels._tables",
    "benchmarks.compiled.tune -> esvit_fast.kernels._tables",
    "benchmarks.compiled.variants -> esvit_fast.kernels._tables",
}
"""Those that there are. Close them; open none."""


def private(part: str) -> bool:
    return part.startswith("_") and not part.startswith("__")


def doors(folder: Path, package: str, packages: tuple[str, ...] = ("esvit_fast", "benchmarks")) -> Iterator[str]:
    """A module that comes from outside, and the private name that it uses; imported, or read from what is imported."""
    for module, path in module_files(folder).items():
        own = f"{package}.{module}" if module else package
        for name in [*imported(own, path), *read(own, path)]:
            parts = name.split(".")
            first = next((number for number, part in enumerate(parts) if private(part)), None)
            if parts[0] not in packages or first is None:
                continue
            room = ".".join(parts[: min(first, 2)])
            if not f"{own}.".startswith(f"{room}."):
                yield f"{own} -> {'.'.join(parts[: first + 1])}"


def imported(own: str, path: Path) -> Iterator[str]:
    for source, member in imports(own, path):
        yield source if member is None else f"{source}.{member}"


def read(own: str, path: Path) -> Iterator[str]:
    """What is read as `name._private` of a name that was imported."""
    tree, bound = ast.parse(path.read_text()), {}
    names = iter(imported(own, path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {alias.asname or alias.name: next(names) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            whole = ast.unparse(node.value)
            if whole in bound:
                yield f"{bound[whole]}.{node.attr}"


def test_no_door_was_opened_and_those_that_were_closed_are_no_longer_listed():
    assert {*doors(PACKAGE, "esvit_fast"), *doors(BENCHMARKS, "benchmarks")} == DOORS


@pytest.mark.parametrize(
    ("module", "line", "door"),
    [
        ("nn/a.py", "from ..ops._core.plan import plan", "pack.nn.a -> pack.ops._core"),
        ("nn/a.py", "def f():\n    from ..ops.plan import _rules as rules", "pack.nn.a -> pack.ops.plan._rules"),
        ("nn/a.py", "from pack.ops import plan\nplan._rules[0]", "pack.nn.a -> pack.ops.plan._rules"),
        ("nn/a.py", "import pack.ops.plan as p\nx = p._rules", "pack.nn.a -> pack.ops.plan._rules"),
        ("nn/a.py", "from ..text import _words", "pack.nn.a -> pack.text._words"),
        ("a.py", "from .ops import _core", "pack.a -> pack.ops._core"),
        ("ops/linear.py", "from ._core.plan import plan", None),
        ("ops/_core/cpu.py", "from . import plan\nplan._rules", None),
        ("nn/a.py", "from .b import _own\nfrom ..ops import plan\nplan.plan\nself._x", None),
        ("nn/a.py", "import torch\ntorch._C._x\nfrom .. import __version__", None),
    ],
)
def test_a_planted_door_is_found(tmp_path, module, line, door):
    (tmp_path / module).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / module).write_text(line)
    assert list(doors(tmp_path, "pack", ("pack",))) == ([door] if door else [])
