"""The committed manifests of compiled kernels: that they are of these sources, and what they promise."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest

from esvit_fast.ops._core import triton as _device
from tests.ops.harness import run

ROOT = Path(__file__).parents[3]
ARCHITECTURES = (80, 90, 100)
MANIFESTS = {
    arch: json.loads((ROOT / "benchmarks" / "manifest" / f"{arch}.json").read_text()) for arch in ARCHITECTURES
}
TENSOR_CORE = {80: "mma", 90: "wgmma", 100: "tcgen05_mma"}

needs_triton = pytest.mark.skipif(_device.MISSING is not None, reason=str(_device.MISSING))
same_triton = pytest.mark.skipif(
    _device.MISSING is None and version("triton") != MANIFESTS[90]["triton"],
    reason="another version of triton compiles otherwise",
)


@needs_triton
def test_manifests_are_of_these_sources_and_complete():
    code = (
        "from benchmarks.compiled import manifest as m; print(m.sources(), *(v.name for v in m.variants()), sep='\\n')"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
    digest, *names = done.stdout.splitlines()
    for manifest in MANIFESTS.values():
        assert manifest["sources"] == digest, "kernels have changed: python -m benchmarks.compiled.manifest write"
        assert list(manifest["variants"]) == names


def multiplies(name):
    """Whether it has products of matrices that may be rounded, as those of matching regions may not."""
    return not name.startswith(("region_match", "soft_cross_entropy", "multicrop_augment")) and not re.search(
        r"cross_entropy (prepare|merge)", name
    )


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_half_precision_multiplies_on_tensor_cores(arch):
    for name, entry in MANIFESTS[arch]["variants"].items():
        # the newer ones take 64 rows
        kind = "mma" if any(few in name for few in (" 3x3 ", " 5x5 ", " D 384 ")) else TENSOR_CORE[arch]
        assert (entry[kind] > 0) == ("fp32" not in name and multiplies(name)), name
        assert entry["exp2"] > 0 or not multiplies(name), name


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_gpu_of_an_architecture_has_the_shared_memory(arch):
    """99 KiB is what a block of threads may have on sm_86, sm_89 and sm_120."""
    assert max(entry["shared_bytes"] for entry in MANIFESTS[arch]["variants"].values()) <= 99 * 1024


SPILLS = {
    80: {
        "window_attention backward 7x7 head_dim 64 bf16 padded": 128,
        "window_attention backward 7x7 head_dim 64 fp16 padded": 128,
        "window_attention backward keys 14x14 head_dim 32 bf16 padded cosine": 8,
    },
    90: {},
    100: {
        "window_attention forward 5x5 head_dim 32 bf16 padded": 8,
        "window_attention forward 5x5 head_dim 32 fp16 padded": 8,
        "window_attention backward 7x7 head_dim 16 bf16 padded": 8,
        "window_attention backward 7x7 head_dim 16 fp16 padded": 8,
        "window_attention backward 7x7 head_dim 64 fp32 padded": 200,
    },
}
"""Bytes of local memory, of all that has any: no windows of 7 x 7 or 14 x 14 with heads of 32 and dot products, as all
of Swin has, and none of the loss."""


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_has_no_registers_left(arch):
    found = {n: e["local_bytes"] for n, e in MANIFESTS[arch]["variants"].items() if e["local_bytes"]}
    assert found == SPILLS[arch]


@needs_triton
@same_triton
@pytest.mark.slow
def test_what_is_compiled_now_is_in_the_manifest(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    only = "(forward|backward) 7x7 head_dim 32 bf16 padded$|keys 14x14 head_dim 32 bf16$|backward D 256 fp16"
    done = run(
        f"import sys; from benchmarks.compiled import manifest as m; sys.exit(m.main(['check', '--only', {only!r}]))"
    )
    assert done.returncode == 0, done.stdout + done.stderr
