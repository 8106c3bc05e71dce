"""What compute-sanitizer is given, and how its words are judged."""

from __future__ import annotations

import pytest

from benchmarks.compiled import sanitizer


def test_what_a_sanitizer_says_is_judged():
    clean = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
    assert sanitizer.judge(0, clean) == ("pass", "ERROR SUMMARY: 0 errors")
    race = "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)\n"
    assert sanitizer.judge(sanitizer.FOUND, race) == (
        "fail",
        "RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)",
    )
    other, ours = (
        f"========= Uninitialized __global__ memory read of size 4 bytes\n=========     at {name}+0x1a0\n"
        "=========     by thread (0,0,0) in block (0,0,0)\n=========\n"
        for name in ("at::copy_kernel(int *)", "void k::region_match<half>(int *)")
    )
    end = "========= ERROR SUMMARY: 2 errors\n"
    assert sanitizer.judge(sanitizer.FOUND, other + other + end, "region_match") == (
        "pass",
        "ERROR SUMMARY: 2 errors, none in region_match",
    )
    assert sanitizer.judge(sanitizer.FOUND, other + ours + end, "region_match")[0] == "fail"
    assert sanitizer.judge(1, "========= Error: Device not supported\n")[0] == "absent"
    assert sanitizer.judge(0, "")[0] == "absent"


@pytest.mark.parametrize("operator", sanitizer.with_kernels())
def test_the_smallest_shapes_run(operator):
    assert sanitizer.run(operator, "cpu", ["cpu"]) == 0
    assert sanitizer.run(operator, "cpu", ["cuda"]) == 1  # there is none, and nothing was shown
