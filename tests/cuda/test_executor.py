"""The executor of device code: its intrinsics are a GPU's, right kernels run clean, and planted bugs are found."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import seeds

from . import executor

HERE = Path(__file__).parent
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
PLANTED = {
    "missing_barrier": "race",
    "missing_second_barrier": "race",
    "missing_warp_barrier": "race",
    "shuffle_for_a_barrier": "race",
    "warp_barrier_for_a_block": "race",
    "read_behind": "out of bounds",
    "write_behind": "out of bounds",
    "write_before": "out of bounds",
    "shared_overrun": "out of bounds",
    "wild_pointer": "out of bounds",
    "written_input": "out of bounds",
    "wrong_memory": "out of bounds",
    "uninitialised_shared": "uninitialised",
    "uninitialised_output": "uninitialised",
    "unwritten": "unwritten",
    "divergent_barrier": "barrier",
    "left_barrier": "barrier",
    "missing_lane": "collective",
    "missing_lane_of_mma": "collective",
    "two_operations": "collective",
    "two_instructions": "collective",
    "wrong_mask": "collective",
    "shuffle_from_outside": "collective",
    "misaligned": "misaligned",
    "misaligned_in_shared": "misaligned",
    "forgotten_wait": "async copy",
    "forgotten_commit": "async copy",
    "forgotten_barrier_of_copies": "race",
    "two_blocks_write": "race",
    "two_threads_write": "race",
    "read_from_another_block": "race",
    "counter": "race",
    "counter_read_early": "race",
    "wrong_assumption": "assumption",
}


@pytest.fixture(scope="module")
def kernels():
    return executor.library(HERE / "kernels.cpp")


def seen(marker: str) -> tuple[str, int]:
    """The file and the line that say that a bug shows there."""
    for path in HERE.glob("*.cuh"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.endswith(f"// seen: {marker}"):
                return f"tests/cuda/{path.name}", number
    return "", 0


def places(report: executor.Report) -> set[tuple[str, int]]:
    return {(report.file, report.line), (report.other_file, report.other_line)}


def words(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**32, shape, dtype=np.uint32)


def run_planted(kernels, kernel: str, grid: int = 2, block: int = 64) -> list[executor.Report]:
    count = grid * block
    x = np.arange(1, count + 1, dtype=np.float32)
    buffers = {
        "x": ("in", x),
        "y": ("out", np.empty_like(x)),
        "counter": ("inout", np.zeros(count, np.uint32)),
    }
    return executor.run(kernels, kernel, grid, block, 4 * block, buffers, {"count": count})


def test_every_planted_bug_is_listed(kernels):
    assert {name.removeprefix("planted.") for name in kernels.kernels() if name.startswith("planted.")} == set(PLANTED)


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(kernels, bug):
    found = run_planted(kernels, f"planted.{bug}")
    assert any(report.kind == PLANTED[bug] and seen(bug) in places(report) for report in found), found


@pytest.mark.parametrize("bug", PLANTED)
def test_without_the_bug_nothing_is_said(kernels, bug):
    assert run_planted(kernels, f"mended.{bug}") == []


def test_a_report_says_who_and_where(kernels):
    (found,) = run_planted(kernels, "planted.read_behind")
    file, line = seen("read_behind")
    message = "a read of 4 bytes reaches 4 bytes behind x of 512 bytes"
    assert str(found) == f"{file}:{line}: out of bounds: block 1, thread 63: {message}"
    (found,) = run_planted(kernels, "planted.left_barrier")
    assert found.message == "thread 63 returned without reaching it" and found.block == 1
    (found,) = run_planted(kernels, "planted.missing_lane_of_mma")
    assert found.message == "mma waits in vain for thread 31"
    (found,) = run_planted(kernels, "planted.unwritten")
    assert found.message == "4 of the 512 bytes of y are unwritten, from byte 508 on" and found.thread == -1


def test_a_warp_may_have_fewer_lanes(kernels):
    assert run_planted(kernels, "mended.missing_barrier", block=40) == []
    for kernel in ("planted.missing_lane", "mended.missing_lane"):
        (found,) = run_planted(kernels, kernel, block=41)
        assert found.kind == "collective" and seen("missing_lane") in places(found)


def test_a_write_behind_a_buffer_does_not_happen(kernels):
    y = np.zeros(129, np.float32)
    x = np.ones(128, np.float32)
    buffers = {"x": ("in", x), "y": ("out", y[:128]), "counter": None}
    (found,) = executor.run(kernels, "planted.write_behind", 2, 64, 0, buffers, {"count": 128})
    assert found.kind == "out of bounds" and y[128] == 0


def test_what_cannot_be_launched(kernels):
    with pytest.raises(ValueError, match="there is no kernel 'nothing'"):
        executor.run(kernels, "nothing", 1, 32, 0, {}, {})
    with pytest.raises(ValueError, match="1 to 1024 threads"):
        executor.run(kernels, "lanes", 1, 1056, 0, {}, {})
    with pytest.raises(ValueError, match="227 KiB"):
        executor.run(kernels, "lanes", 1, 32, 1 << 20, {}, {})
    with pytest.raises(ValueError, match="takes a number 'count'"):
        executor.run(kernels, "block_sum", 1, 32, 0, {}, {})


@pytest.mark.parametrize(("grid", "block"), [(1, 32), (3, 64), (5, 256), (2, 1024)])
def test_a_sum_over_a_block(kernels, grid, block):
    x = np.random.default_rng(0).standard_normal(grid * block - 7, np.float32)
    sums = np.empty(grid, np.float32)
    buffers = {"x": ("in", x), "sums": ("out", sums)}
    assert executor.run(kernels, "block_sum", grid, block, block // 8, buffers, {"count": x.size}) == []
    padded = np.concatenate([x, np.zeros(7, np.float32)]).astype(np.float64)
    np.testing.assert_allclose(sums, padded.reshape(grid, block).sum(1), rtol=1e-5, atol=1e-5)


def product(kernels, kernel: str, dtype: torch.dtype, m: int, n: int, k: int):
    generator = seeds.generator(0)
    a, b = (torch.randn(rows, k, generator=generator).to(dtype) for rows in (m, n))
    d = torch.empty(m, n)
    grid = -(-m // 32) * -(-n // 16)
    buffers = {"a": ("in", a), "b": ("in", b), "d": ("out", d)}
    found = executor.run(kernels, kernel, grid, 64, 2 * 48 * 24 * 2, buffers, {"m": m, "n": n, "k": k})
    return found, d, a.double() @ b.double().T


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n", "k"), [(32, 16, 16), (49, 33, 40), (1, 1, 8), (70, 50, 96)])
def test_a_product_of_matrices(kernels, dtype, m, n, k):
    found, d, expected = product(kernels, f"product.{dtype}", DTYPES[dtype], m, n, k)
    assert found == []
    torch.testing.assert_close(d.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_swapped_fragment_gives_other_numbers(kernels):
    found, d, expected = product(kernels, "product.swapped_fragment", torch.float16, 49, 33, 40)
    assert found == [] and (d - expected).abs().max() > 1


@pytest.mark.parametrize(
    ("bug", "kind", "marker"),
    [
        ("early_wait", "async copy", "early_wait"),
        ("missing_barrier", "race", "copies"),
        ("row_behind", "out of bounds", "copies"),
    ],
)
def test_a_bug_in_a_pipeline_is_found(kernels, bug, kind, marker):
    found, _, _ = product(kernels, f"product.{bug}", torch.float16, 49, 33, 64)
    assert any(report.kind == kind and seen(marker) in places(report) for report in found), found


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_16_bit_number_comes_back(kernels, dtype):
    x = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(DTYPES[dtype])
    to, back = torch.empty(x.shape), torch.empty_like(x)
    buffers = {"x": ("in", x), "to": ("out", to), "back": ("out", back)}
    assert executor.run(kernels, f"convert.{dtype}", 64, 1024, 0, buffers, {}) == []
    real = ~x.isnan()
    assert torch.equal(to[real].view(torch.int32), x.float()[real].view(torch.int32))
    assert torch.equal(back[real].view(torch.int16), x[real].view(torch.int16))
    assert to[~real].isnan().all() and (back[~real].view(torch.int16) == 0x7FFF).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_packing_rounds_to_nearest_even(kernels, dtype):
    # every 16-bit number, and of each the ties with the next, and one bit to either side of them
    x = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(DTYPES[dtype]).float()
    half = 0x1000 if dtype == "float16" else 0x8000
    bits = x.view(torch.int32)
    subnormal = torch.arange(-2048, 2048) * 2.0**-25
    near = [(bits + step).view(torch.float32) for step in (half - 1, half, half + 1)]
    edges = torch.tensor([65519.996, 65520, 1e30, 3.4e38, 1e-45, -1e-45, torch.inf, -torch.inf, torch.nan, -0.0])
    y = torch.cat([*near, subnormal, subnormal * (1 + 2**-20), edges])
    y = torch.cat([y, y.new_zeros(-y.numel() % 512)])
    to, back = torch.empty(y.shape, dtype=torch.int32), torch.empty(*y.shape, 2)
    buffers = {"x": ("in", y), "y": ("in", y.flip(0).contiguous()), "to": ("out", to), "back": ("out", back)}
    assert executor.run(kernels, f"pack.{dtype}", y.numel() // 512, 512, 0, buffers, {}) == []
    expected = torch.stack([y, y.flip(0)], 1).to(DTYPES[dtype])
    got = to.view(torch.int16).view(-1, 2)
    assert torch.equal(got[~expected.isnan()], expected.view(torch.int16)[~expected.isnan()])
    assert (got[expected.isnan()] == 0x7FFF).all()
    torch.testing.assert_close(back, expected.float(), rtol=0, atol=0, equal_nan=True)


def fragment_places(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the numbers of a lane's registers lie in A [16, k], B [k, 8] and D [16, 8], as the PTX ISA has it."""
    group, thread = np.arange(32)[:, None] // 4, np.arange(32)[:, None] % 4
    i = np.arange(k // 2)[None]
    a = (group + 8 * (i // 2 % 2)) * k + thread * 2 + i % 2 + 8 * (i // 4)
    i = np.arange(k // 4)[None]
    b = (thread * 2 + i % 2 + 8 * (i // 2)) * 8 + group
    i = np.arange(4)[None]
    return a, b, (group + 8 * (i // 2)) * 8 + thread * 2 + i % 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [8, 16])
def test_mma_is_a_product_of_matrices(kernels, dtype, k):
    generator = seeds.generator(k)
    a, b = (torch.randn(*shape, generator=generator).to(DTYPES[dtype]) for shape in ((16, k), (k, 8)))
    d = torch.randn(16, 8, generator=generator)
    expected = d.double() + a.double() @ b.double()
    of_a, of_b, of_d = (torch.from_numpy(places) for places in fragment_places(k))
    fragments = d.flatten()[of_d].contiguous()
    buffers = {
        "a": ("in", a.flatten()[of_a].contiguous()),
        "b": ("in", b.flatten()[of_b].contiguous()),
        "d": ("inout", fragments),
    }
    assert executor.run(kernels, f"mma_k{k}.{dtype}", 1, 32, 0, buffers, {}) == []
    torch.testing.assert_close(fragments.double(), expected.flatten()[of_d], rtol=1e-5, atol=1e-5)


def test_ldmatrix_hands_out_rows(kernels):
    rows, order = words(32, 4), np.random.default_rng(1).permutation(32).astype(np.uint32)
    to = np.empty((32, 12), np.uint32)
    buffers = {"a": ("in", rows), "b": ("in", order), "c": None, "to": ("out", to)}
    assert executor.run(kernels, "ldmatrix", 1, 32, 512, buffers, {}) == []
    matrices = rows.view(np.uint16)[order].reshape(4, 8, 8)
    plain, turned = (m.reshape(4, 32, 2) for m in (matrices, np.ascontiguousarray(matrices.transpose(0, 2, 1))))
    expected = np.concatenate([plain, turned, plain[:2], turned[:2]])
    np.testing.assert_array_equal(to.view(np.uint16).reshape(32, 12, 2), expected.transpose(1, 0, 2))


@pytest.mark.parametrize("by", [1, 5, 16, 31])
def test_lanes_talk(kernels, by):
    mine, other = words(32, seed=by), words(32, seed=by + 1)
    to = np.empty((9, 32), np.uint32)
    buffers = {"a": ("in", mine), "b": ("in", other), "c": ("in", np.uint32([by])), "to": ("out", to)}
    assert executor.run(kernels, "lanes", 1, 32, 0, buffers, {}) == []
    lane = np.arange(32)
    down = np.where(lane + by < 32, lane + by, lane)
    votes = mine & 1
    ballot = (votes << lane).sum(dtype=np.uint32)
    halves = np.where(lane < 16, ballot & 0xFFFF, ballot & 0xFFFF0000)
    expected = [np.full(32, mine[by]), mine[lane ^ by], mine[down], mine[lane ^ by], np.full(32, ballot)]
    expected += [np.full(32, votes.any()), np.full(32, votes.all()), halves, mine[other % 32]]
    np.testing.assert_array_equal(to, np.stack(expected))


@pytest.mark.parametrize("value", [0, 1])
def test_a_vote_of_all(kernels, value):
    to = np.empty((9, 32), np.uint32)
    mine = np.full(32, value, np.uint32)
    buffers = {"a": ("in", mine), "b": ("in", mine), "c": ("in", np.uint32([1])), "to": ("out", to)}
    assert executor.run(kernels, "lanes", 1, 32, 0, buffers, {}) == []
    assert (to[4] == (0xFFFFFFFF if value else 0)).all() and (to[5] == value).all() and (to[6] == value).all()


def test_byte_perm_picks_bytes(kernels):
    a, b, selector = words(3, 512)
    to = np.empty(512, np.uint32)
    buffers = {"a": ("in", a), "b": ("in", b), "c": ("in", selector), "to": ("out", to)}
    assert executor.run(kernels, "byte_perm", 2, 256, 0, buffers, {}) == []
    of = np.stack([a, b], 1).view(np.uint8)
    nibble = selector[:, None] >> np.arange(0, 16, 4) & 15
    picked = np.take_along_axis(of, (nibble & 7).astype(np.int64), 1)
    expected = np.where(nibble & 8, np.where(picked & 128, 255, 0), picked).astype(np.uint8)
    np.testing.assert_array_equal(to.view(np.uint8).reshape(-1, 4), expected)


@pytest.mark.parametrize("size", [4, 8, 16])
def test_an_asynchronous_copy_fills_with_zeros(kernels, size):
    a = words(64, size // 4)
    to = np.empty_like(a)
    buffers = {"a": ("in", a), "b": None, "c": None, "to": ("out", to)}
    assert executor.run(kernels, f"copy.{size}", 1, 64, 64 * size, buffers, {}) == []
    np.testing.assert_array_equal(to, np.where(np.arange(64)[:, None] % 3 == 1, 0, a))


def test_approximations(kernels):
    special = [0, -0.0, 1e-40, -1e-40, -126, -126.5, -149, -200, 127.5, 128, np.inf, -np.inf, np.nan, 2.0**-126, 3e38]
    x = np.float32([*special, *np.random.default_rng(0).uniform(-20, 20, 1024 - len(special))])
    to = np.empty((2, 1024), np.float32)
    assert executor.run(kernels, "approximations", 4, 256, 0, {"x": ("in", x), "to": ("out", to)}, {}) == []

    def flushed(y):
        return np.where(np.abs(y) < 2.0**-126, np.copysign(0, y), y)

    with np.errstate(all="ignore"):
        y = flushed(x.astype(np.float64))
        expected = flushed(np.stack([np.exp2(y), 1 / y]))
        expected[np.abs(expected) > np.finfo(np.float32).max] *= np.inf
    np.testing.assert_allclose(to, expected, rtol=2.0**-22, atol=0)
    real = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(to)[real], np.signbit(expected)[real])


def test_a_gpu_compiler_takes_the_same_kernels(tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    made = tmp_path / "kernels.ptx"
    command = ["nvcc", "-std=c++17", "-arch=sm_80", "--ptx", "-Werror", "all-warnings", "-o", str(made)]
    done = subprocess.run([*command, str(HERE / "kernels.cu")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    ptx = made.read_text()
    assert all(name in ptx for name in ("mma.sync.aligned.m16n8k16", "ldmatrix", "cp.async", *PLANTED))


def test_without_a_compiler_the_tests_are_skipped(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match=r"not here: \['g\+\+', 'addr2line'\]"):
        executor.compiler()
