"""The wheel holds the package, all of it, and nothing else."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

import esvit_fast

from .tree import KERNELS, PACKAGE, ROOT, build_libraries


@pytest.fixture(scope="module", params=["python", "cpu"])
def wheel(request, tmp_path_factory):
    """A wheel, without and with the compiled library, built from a copy of the tree, so that it leaves no trace."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, tree)
    for folder in (PACKAGE, KERNELS, ROOT / "csrc", ROOT / "tests"):
        shutil.copytree(folder, tree / folder.name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    pip = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-index"]
    done = subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(tree)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"ESVIT_FAST_BUILD": request.param},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(out.glob("esvit_fast-*.whl"))) as archive:
        yield archive


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel):
    here = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    here |= {f"esvit_fast/kernels/{path.name}" for path in KERNELS.glob("*.py")}
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    compiled = {name for name in inside if name.endswith(".so")}
    assert inside - compiled == {name for name in here if "__pycache__" not in name and not name.endswith(".so")}
    assert compiled == (set() if "none-any" in wheel.filename else {"esvit_fast/_C_cpu.abi3.so"})
    assert {"esvit_fast/py.typed", "esvit_fast/recipes/swin_tiny_w7.yaml", "esvit_fast/ops/_core/plan.py"} <= inside
    assert "esvit_fast/kernels/window_attention_fwd.py" in inside


def test_the_wheel_says_what_it_is(wheel):
    info = f"esvit_fast-{esvit_fast.__version__}.dist-info"
    metadata = email.message_from_string(wheel.read(f"{info}/METADATA").decode())
    assert metadata["Name"] == "esvit-fast"
    assert metadata["Version"] == esvit_fast.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert "torch>=2.10" in metadata.get_all("Requires-Dist")
    assert {"plots", "jpeg", "log", "data", "eval", "test", "all"} == set(metadata.get_all("Provides-Extra"))
    assert b"esvit-fast = esvit_fast.cli.main:main" in wheel.read(f"{info}/entry_points.txt")
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert metadata.get_payload() == (ROOT / "README.md").read_text()
    facts = wheel.read(f"{info}/WHEEL").decode()
    pure = "none-any" in wheel.filename
    assert f"Root-Is-Purelib: {str(pure).lower()}" in facts
    assert ("Tag: py3-none-any" if pure else "Tag: cp310-abi3-") in facts


def test_builds_that_cannot_be(tmp_path):
    wrong = build_libraries(tmp_path, ESVIT_FAST_BUILD="gpu")
    assert wrong.returncode != 0 and "ESVIT_FAST_BUILD='gpu' must be one of auto, python, cpu, cuda" in wrong.stderr
    missing = build_libraries(tmp_path, ESVIT_FAST_BUILD="cpu", CXX="no-such-compiler")
    assert missing.returncode != 0 and "ESVIT_FAST_BUILD=cpu: the C++ compiler 'no-such-compiler'" in missing.stderr
    without = build_libraries(tmp_path, ESVIT_FAST_BUILD="auto", CXX="no-such-compiler")
    assert without.returncode == 0
    assert "esvit_fast is built without CPU kernels: the C++ compiler 'no-such-compiler' is not here" in without.stderr


def test_a_build_without_kernels_says_so(tmp_path):
    built = build_libraries(tmp_path, ESVIT_FAST_BUILD="python")
    assert built.returncode == 0
    assert "esvit_fast is built without kernels, as ESVIT_FAST_BUILD=python asks" in built.stderr
