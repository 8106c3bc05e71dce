"""What nvcc made of the CUDA kernels: the committed manifests, what they promise, and the library if it was built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from esvit_fast.ops._core import cuda_tables as _tables
from esvit_fast.ops._core import triton as _device
from tests.ops.harness import run

ROOT = Path(__file__).parents[3]
MANIFESTS = {
    arch: json.loads((ROOT / "benchmarks" / "manifest" / f"cuda_{arch}.json").read_text())
    for arch in ("80", "90a", "100")
}
PASSES = {"fwd": "programs", "bwd": "programs_backward"}
DTYPES = ("half", "bfloat16")

needs_tools = pytest.mark.skipif(
    _device.MISSING is not None, reason=f"Triton's cuobjdump is not here: {_device.MISSING}"
)


def said(code):
    done = run(code)
    assert not done.stderr, done.stderr
    return done.stdout


def name(kind, head_dim, tiles, dtype):
    return f"window_attention {kind} head_dim {head_dim} keys {8 * tiles} {dtype}"


@needs_tools
def test_manifests_are_of_these_sources():
    digest = said("from benchmarks.compiled import cuda_manifest as m; print(m.sources())")
    for manifest in MANIFESTS.values():
        assert manifest["sources"] == digest.strip(), (
            "kernels have changed: build, then python -m benchmarks.compiled.cuda_manifest write"
        )


@pytest.mark.parametrize("arch", MANIFESTS)
def test_every_kernel_is_there_and_nothing_is_spilled(arch):
    kernels = MANIFESTS[arch]["kernels"]
    dims, variants = _tables.HEAD_DIMS, _tables.KEY_TILES
    windows = {name(k, d, n, t) for k in PASSES for d in dims for n in variants for t in DTYPES}
    logits = {f"soft_cross_entropy {kind} {t}" for kind in ("rows", "usage", "loss") for t in DTYPES}
    assert kernels.keys() == windows | logits
    for each, entry in kernels.items():
        assert entry["local_bytes"] == 0
        assert entry["exp2"] > 0 and entry["blocks"] > 0
        if each in windows:
            assert entry["shared_bytes"] <= 99 * 1024  # what a block may have on sm_86, sm_89 and sm_120
            assert entry["mma"] > 0


@pytest.mark.parametrize("arch", MANIFESTS)
def test_tables_count_on_the_blocks_that_there_is_room_for(arch):
    kernels, blocks = MANIFESTS[arch]["kernels"], _tables.BLOCKS[int(arch.rstrip("a"))]
    for kind, programs in PASSES.items():
        for head_dim in _tables.HEAD_DIMS:
            room = tuple(
                min(kernels[name(kind, head_dim, tiles, dtype)]["blocks"] for dtype in DTYPES)
                for tiles in _tables.KEY_TILES
            )
            assert blocks[programs][head_dim] == room, (kind, head_dim)


@needs_tools
def test_the_library_is_what_the_manifest_says():
    found = said("from benchmarks.compiled import cuda_manifest as m; m.library() and m.main(['check'])")
    if not found:
        pytest.skip("the CUDA library was not built")
    compiler, _, different = found.partition("\n")
    if compiler != f"nvcc {MANIFESTS['80']['nvcc']}":
        pytest.skip(f"{compiler} compiles otherwise")
    assert not different
