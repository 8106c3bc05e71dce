"""The wheel holds the package, all of it, and nothing else."""

from __future__ import annotations

import email
import shutil
import subprocess
import sys
import zipfile

import pytest

import esvit_fast

from .tree import PACKAGE, ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel that is built from a copy of the tree, so that building leaves no trace here and finds none."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, tree)
    for folder in (PACKAGE, ROOT / "tests"):
        shutil.copytree(folder, tree / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-index"]
    done = subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(tree)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(out.glob("esvit_fast-*.whl"))) as archive:
        yield archive


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel):
    here = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == {name for name in here if "__pycache__" not in name}
    assert {"esvit_fast/py.typed", "esvit_fast/recipes/swin_tiny_w7.yaml", "esvit_fast/ops/_plan.py"} <= inside


def test_the_wheel_says_what_it_is(wheel):
    info = f"esvit_fast-{esvit_fast.__version__}.dist-info"
    metadata = email.message_from_string(wheel.read(f"{info}/METADATA").decode())
    assert metadata["Name"] == "esvit-fast"
    assert metadata["Version"] == esvit_fast.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert "torch>=2.10" in metadata.get_all("Requires-Dist")
    assert {"plots", "jpeg", "log", "eval", "test", "all"} == set(metadata.get_all("Provides-Extra"))
    assert b"esvit-fast = esvit_fast.cli.main:main" in wheel.read(f"{info}/entry_points.txt")
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert metadata.get_payload() == (ROOT / "README.md").read_text()
    assert b"Root-Is-Purelib: true" in wheel.read(f"{info}/WHEEL")
