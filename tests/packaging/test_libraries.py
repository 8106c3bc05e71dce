"""The compiled libraries: they load where there is no GPU, and need nothing of torch but its stable interface."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from esvit_fast.ops._core import native
from tests.ops.harness import run

from .tree import PACKAGE, build_libraries

LIBRARIES = {"_C_cpu": native._CPU_SCHEMAS, "_C_cuda": native._CUDA_SCHEMAS}


def built(stem):
    found = sorted(PACKAGE.glob(f"{stem}*.so"))
    if not found:
        pytest.skip(f"{stem} was not built")
    return found[0]


@pytest.mark.parametrize("stem", LIBRARIES)
def test_a_library_that_was_built_loads_without_a_gpu(stem):
    """And without a driver, where the machine has none."""
    built(stem)
    code = "from esvit_fast.ops._core import native as n; print(n.CPU_MISSING, n.CUDA_MISSING, sep='\\n')"
    done = run(code, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    missing = dict(zip(LIBRARIES, done.stdout.splitlines(), strict=True))
    assert missing[stem] == "None"


@pytest.mark.parametrize("stem", LIBRARIES)
def test_a_library_of_another_version_is_refused(stem):
    built(stem)
    schemas = LIBRARIES[stem]
    assert native._load(stem, schemas) is None
    for other in ({"window_attention": "(Tensor qkv) -> Tensor"}, {"attention": schemas["window_attention"]}):
        assert "is of another version; build it with" in native._load(stem, schemas | other)


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm, of binutils, is not here")
@pytest.mark.parametrize("stem", LIBRARIES)
def test_a_library_needs_no_cpp_of_torch(stem):
    """Names of C++ change from version to version; those of the stable interface, of C, do not."""
    command = ["nm", "--dynamic", "--undefined-only", str(built(stem))]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert any(name.startswith("aoti_torch_") for name in names)
    assert not [name for name in names if re.match(r"_ZNK?(2at|3c10|5torch)", name)]


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (None, "nvcc is not here: CUDA_HOME="),
        ("5.5", "nvcc is of CUDA 5.5 and torch of "),
    ],
)
def test_a_toolkit_that_will_not_do(version, said, tmp_path):
    """Another version's, told by a script in its place, as there may be one on PATH."""
    torch = pytest.importorskip("torch")
    if torch.version.cuda is None:
        pytest.skip("this torch has no CUDA")
    if version is not None:
        (tmp_path / "bin").mkdir()
        nvcc = tmp_path / "bin" / "nvcc"
        nvcc.write_text(f"#!/bin/sh\necho 'release {version}, V{version}.0'\necho '#$ TOP=/opt/cuda/bin/..' >&2\n")
        nvcc.chmod(0o755)
    done = build_libraries(tmp_path, ESVIT_FAST_BUILD="cuda", CUDA_HOME=str(tmp_path))
    assert done.returncode != 0 and f"ESVIT_FAST_BUILD=cuda: {said}" in done.stderr
