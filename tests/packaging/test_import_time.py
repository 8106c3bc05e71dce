"""What a command line that only prints text must not wait for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .tree import ROOT

HEAVY = ("torch", "torchvision", "timm", "numpy", "PIL", "triton")


@pytest.mark.parametrize(
    "statement",
    [
        "import esvit_fast; assert esvit_fast.__version__",
        "import esvit_fast.cli.main",
        "from esvit_fast.cli.main import main; assert main(['--help']) == 0",
        "from esvit_fast.cli.main import main; assert main(['--version']) == 0",
        "import esvit_fast.config",
    ],
)
def test_nothing_heavy_is_imported(statement):
    code = f"{statement}\nimport sys\nassert not set(sys.modules) & set({HEAVY})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_public_names_are_found_when_they_are_asked_for():
    import esvit_fast
    from esvit_fast import models, ops

    assert esvit_fast.create_model is models.create_model
    assert esvit_fast.plan is ops.plan
    assert all(getattr(esvit_fast, name) is not None for name in esvit_fast.__all__)
    assert set(esvit_fast.__all__) <= set(dir(esvit_fast))
    with pytest.raises(AttributeError, match="module 'esvit_fast' has no attribute 'nonsense'"):
        _ = esvit_fast.nonsense


def test_dir_imports_nothing_and_type_checkers_see_what_is_there():
    import ast

    code = "import sys, esvit_fast\nassert set(esvit_fast.__all__) <= set(dir(esvit_fast))\n"
    code += f"assert not set(sys.modules) & set({HEAVY})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    body = ast.parse((ROOT / "esvit_fast" / "__init__.py").read_text()).body
    for_checkers = next(node.body for node in body if isinstance(node, ast.If))
    import esvit_fast

    seen = {alias.name: node.module for node in for_checkers for alias in node.names}
    assert seen == esvit_fast._ROOMS and {*seen, "__version__"} == set(esvit_fast.__all__)
    assert all(node.level == 1 for node in for_checkers)
