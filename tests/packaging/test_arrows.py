"""Who may import whom: every arrow between the rooms of the package, and of the benchmarks, points down."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from .tree import BENCHMARKS, PACKAGE, ROOT, imported_modules, imports, module_files

CHAIN = ("methods", "models", "nn", "ops", "reference")
"""Each may import those to its right."""
LEAVES = ("data", "config", "errors", "gpus", "registry", "text")
WHILE_TRAINING = (
    "evaluation.catalog",
    "evaluation.features",
    "evaluation.measures.health",
    "evaluation.protocols.knn",
    "evaluation.task",
)
"""Of evaluation: k-NN and the rank of features."""
COMMON = ("errors", "registry", "text")
ALLOWED = {
    **{room: {*CHAIN[position + 1 :], *COMMON} for position, room in enumerate(CHAIN)},
    "methods": {*CHAIN[1:], *COMMON, "config.method", "config.rules"},  # settings lie beside their method
    "ops": {"reference", "kernels", "errors"},
    "reference": set(),
    "kernels": set(),
    "errors": set(),
    "text": set(),
    "plugins": {"errors"},
    "registry": {"errors", "plugins", "text"},
    "config": {*COMMON},
    "gpus": {"errors", "text"},
    # augmentation is an operator
    "data": {"config", "ops", *COMMON},
    "evaluation": {*CHAIN, *LEAVES},
    "parallel": {"config", "methods", "errors"},
    "runs": {"config", "data", "parallel", "errors", "text"},
    # k-NN and the rank of features while training
    "training": {*CHAIN, *LEAVES, "runs", "parallel", *WHILE_TRAINING},
    "reporting": {*CHAIN, *LEAVES, "evaluation"},
    "cli": {*CHAIN, *LEAVES, "evaluation", "reporting", "training", "runs", "parallel", ""},
    "__main__": {"cli"},
    # for type checkers; what is asked for is imported then
    "": {"models", "nn", "ops"},
}
"""A room to the rooms, or single modules, that it may import; "" is `esvit_fast/__init__.py`."""


MEASURING = {"measuring", "registry"}
ALLOWED_IN_BENCHMARKS = {
    "": set(),
    "measuring": set(),
    # it finds operators and systems by their files
    "registry": set(),
    "operators": MEASURING,
    "systems": {*MEASURING, "operators"},
    "experiments": {"measuring"},
    "compiled": {*MEASURING, "operators"},
    "report": MEASURING,
    "run": MEASURING,
    "battery": {"measuring", "report"},
}
"""The same of the folder benchmarks."""


def room(module: str) -> str:
    return module.split(".")[0]


def bad_arrows(folder: Path, allowed: dict[str, set[str]] = ALLOWED, package: str = "esvit_fast") -> list[str]:
    files = module_files(folder)
    return [
        f"{module or package} -> {target or package}"
        for module, path in files.items()
        for target in imported_modules(module, path, set(files), package)
        if room(target) != room(module) and not {target, room(target)} & allowed[room(module)]
    ]


def test_every_room_is_known():
    assert {room(module) for module in module_files()} <= ALLOWED.keys()
    assert {room(module) for module in module_files(BENCHMARKS)} == ALLOWED_IN_BENCHMARKS.keys()


def test_every_arrow_points_down():
    assert bad_arrows(PACKAGE) == []
    assert bad_arrows(BENCHMARKS, ALLOWED_IN_BENCHMARKS, "benchmarks") == []


def test_the_package_knows_neither_benchmarks_nor_tests():
    for module, path in module_files().items():
        sources = {source.split(".")[0] for source, _ in imports(f"esvit_fast.{module}".rstrip("."), path)}
        assert not sources & {"benchmarks", "tests"}, module


def test_the_arrows_are_seen():
    files = module_files()
    found = {module: set(imported_modules(module, path, set(files))) for module, path in files.items()}
    assert {"nn"} <= found["models.swin"]
    assert {"reference", "ops._core.library", "ops._core.plan"} <= found["ops.region_match.op"]
    assert {"kernels._tables", "kernels.window_attention_fwd"} <= found["ops.window_attention.triton"]
    assert {"config", "data.views.draws"} <= found["data.views.multicrop"]
    files = module_files(BENCHMARKS)
    path = files["operators.window_attention_layer"]
    found = set(imported_modules("operators.window_attention_layer", path, set(files), "benchmarks"))
    assert {"operators.window_attention", "measuring.contest", "registry"} <= found


def test_device_code_knows_no_torch():
    for module, path in module_files().items():
        if room(module) == "kernels":
            nodes = list(ast.walk(ast.parse(path.read_text())))
            roots = {alias.name.split(".")[0] for n in nodes if isinstance(n, ast.Import) for alias in n.names}
            roots |= {n.module.split(".")[0] for n in nodes if isinstance(n, ast.ImportFrom) and not n.level}
            assert roots <= {"os", "triton"}, module
    for path in (ROOT / "csrc" / "cuda").glob("*.cuh"):
        included = set(re.findall(r"#include [<\"](.+)[>\"]", path.read_text()))
        assert included <= {"cstdint", "../host/device.h"} | {p.name for p in path.parent.glob("*.cuh")}, path.name


@pytest.mark.parametrize(
    ("module", "line", "arrow"),
    [
        ("ops/matmul.py", "from ..nn import SwinBlock", "ops.matmul -> nn"),
        ("ops/matmul.py", "from .. import nn", "ops.matmul -> nn"),
        ("ops/__init__.py", "from ..nn import SwinBlock", "ops -> nn"),
        ("nn/matmul.py", "from ..kernels import matmul", "nn.matmul -> kernels"),
        ("reference/matmul.py", "import esvit_fast.ops.plan", "reference.matmul -> ops.plan"),
        ("data/lists.py", "from ..reference import multicrop_augment", "data.lists -> reference"),
        ("data/lists.py", "def f():\n    from esvit_fast.training import loop", "data.lists -> training"),
        ("methods/dino.py", "if True:\n    from ..config import Config", "methods.dino -> config"),
        ("evaluation/knn.py", "import esvit_fast.training as t", "evaluation.knn -> training"),
        ("training/loop.py", "from ..evaluation import report", "training.loop -> evaluation"),
        ("training/loop.py", "from esvit_fast.evaluation.suite import evaluate", "training.loop -> evaluation.suite"),
        ("models/swin.py", "from esvit_fast import create_model", "models.swin -> esvit_fast"),
        ("config.py", "from .data.decode import pixels", "config -> data.decode"),
        ("errors.py", "from .config import Config", "errors -> config"),
    ],
)
def test_a_planted_bad_arrow_is_found(tmp_path, module, line, arrow):
    for name in ("nn/__init__.py", "kernels/__init__.py", "evaluation/knn.py", module):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / module).write_text(line)
    assert bad_arrows(tmp_path) == [arrow]


@pytest.mark.parametrize(
    "line",
    [
        "from ..evaluation.protocols.knn import HEADLINE_K",
        "from ..evaluation.protocols import knn as protocol",
        "from ..nn import x",
        "import torch",
    ],
)
def test_training_may_import_this(tmp_path, line):
    for name in ("evaluation/protocols/knn.py", "training/loop.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "training/loop.py").write_text(line)
    assert bad_arrows(tmp_path) == []
