"""Operators alone, a step with timm's attention, and what measuring on a GPU takes, as far as none is needed."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from benchmarks import (
    contestants,
    gpu,
    gpu_tests,
    kernels,
    measuring,
    performance,
    sanitizer,
    step,
    window_attention,
)
from benchmarks.contestants import CASES, Case
from esvit_fast import ops
from esvit_fast.ops._plan import implementations

# torch's own
pytestmark = pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")
SMALL = [Case("shifted and padded", 9, 32, 2, 4), Case("shifted", 8, 32, 2, 4), Case("smaller", 3, 32, 2, 7)]
STAGE_1 = CASES[0]


@pytest.fixture
def uncompiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    step._compiled.cache_clear()
    yield
    step._compiled.cache_clear()


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
@pytest.mark.parametrize("name", ["torch eager", "sdpa", "esvit_fast cpu"])
def test_everyone_computes_the_same(case, name):
    assert kernels.gate(case, kernels.CONTESTANTS[name], torch.float32, "cpu") <= 1


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_computes_the_same(case, uncompiled):
    """Forward and uncompiled, which is all that it does on a CPU; alone, and in a layer."""
    (qkv, table, pads), _ = kernels.inputs(case, 2, torch.float32, "cpu")
    x, weights, _ = measuring_inputs(case)
    with torch.no_grad():
        found = kernels._flex(case, "cpu")(qkv, table, pads)
        torch.testing.assert_close(found, kernels.oracle(case, "cpu")(qkv, table, pads))
        found = contestants._flex(case, weights)(x)
        torch.testing.assert_close(found, contestants.eager(case, weights)(x))


def measuring_inputs(case):
    from benchmarks import window_attention

    return window_attention.inputs(case, 2, torch.float32, "cpu")


def test_what_is_below_the_smallest_float32_may_count_as_zero():
    """The gradient of pads that all are masked, as in a map of 24 x 24 that is shifted in windows of 7 x 7."""
    exact, plain = torch.full((3,), 7e-42, dtype=torch.float64), torch.full((3,), 7e-42)
    assert measuring.worst_ratio([torch.zeros(3)], [plain], [exact]) < 1
    assert measuring.worst_ratio([torch.full((3,), 1e-36)], [plain], [exact]) > 1


def test_a_record_has_the_least_that_anyone_moves():
    """Forward and backward of stage 1 for 64 images: 8 C and 14 C bytes a token in 16 bits."""
    least = kernels.least(STAGE_1, 64, torch.bfloat16)
    tokens = 64 * 56 * 56
    assert least["forward"] == {"bytes": 8 * 96 * tokens, "flop": 4 * 49 * 96 * tokens}
    assert least["backward"] == {"bytes": 14 * 96 * tokens, "flop": 10 * 49 * 96 * tokens}


def test_a_record_of_operators_alone(tmp_path):
    names = ["torch eager", "sdpa", "flex attention", "esvit_fast cpu", "esvit_fast triton"]
    record = kernels.measure(SMALL[0], names, 1, torch.float32, "cpu", 2)
    rows = record["contestants"]
    gates = {"flex attention": "absent", "esvit_fast triton": "absent"}
    assert {name: row["gate"] for name, row in rows.items()} == dict.fromkeys(names, "pass") | gates
    for row in rows.values():
        assert ("forward" in row) == ("backward" in row) == ("peak_bytes" in row) == (row["gate"] == "pass")
    assert "absent: it has no backward pass on a CPU" in kernels.table(record)
    measuring.append(record, "kernels", tmp_path)
    like = window_attention.identity(SMALL[0], 1, torch.float32)
    assert measuring.recorded(like, names[:2], "kernels", "cpu", tmp_path)
    assert not measuring.recorded(like, ["esvit_fast cuda"], "kernels", "cpu", tmp_path)
    assert not measuring.recorded(like | {"dtype": "torch.float16"}, names, "kernels", "cpu", tmp_path)
    assert "esvit_fast cpu" in " ".join(performance.digest(performance.read(tmp_path)))


def test_records_stand_on_lines_of_their_own(tmp_path):
    record = {"op": "x", "environment": {"device": "cpu"}}
    file = measuring.append(record, "x", tmp_path)
    with open(file, "a") as lines:
        lines.write('{"op": "cut')
    measuring.append(record, "x", tmp_path)
    assert file.read_text().splitlines() == [json.dumps(record), '{"op": "cut', json.dumps(record)]
    assert performance.read_lines(file) == [record, record]


def test_a_backward_pass_is_timed_alone():
    order = []
    before = {"a": lambda: order.append("graph") or "graph"}
    runs = {"a": lambda given: order.append(given * 2), "b": lambda: order.append("b")}
    times = measuring.interleaved(runs, 2, "cpu", before=before)
    assert order == 2 * [*["graph", "graphgraph", "b"], *["b", "graph", "graphgraph"]]
    assert set(times) == {"a", "b"}


def test_what_does_not_fit_has_no_time(monkeypatch):
    def run():
        raise torch.OutOfMemoryError("tried to allocate 80 GiB")

    assert measuring.judged(run) == {"gate": "absent", "why": measuring.NO_ROOM}
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    rows = {"a": {"gate": "pass", "error": 0.5}, "b": {"gate": "pass", "error": 0.5}}
    fine = lambda: None  # noqa: E731
    assert measuring.fitting({"a": run, "b": fine}, rows, "cuda") == {"b": fine}
    assert rows["a"] == {"gate": "absent", "error": 0.5, "why": measuring.NO_ROOM} and rows["b"]["gate"] == "pass"


def test_the_state_of_a_card_is_read():
    assert gpu.read_state("580.159.04, 1980, 2619, 41, 312.7, 0x0000000000000005\n") == {
        "driver": "580.159.04",
        "sm_mhz": 1980.0,
        "memory_mhz": 2619.0,
        "celsius": 41.0,
        "watts": 312.7,
        "throttle": 4,
    }
    assert gpu.read_state("580.1, 210, [N/A], 30, [N/A], 0x1") == {
        "driver": "580.1",
        "sm_mhz": 210.0,
        "celsius": 30.0,
        "throttle": 0,
    }
    assert gpu.read_state("") == {"driver": ""}


def test_launches_are_what_a_gpu_worked_on():
    def event(device, name):
        return SimpleNamespace(device_type=lambda: device, name=lambda: name)

    events = [event(DeviceType.CPU, "aten::mm"), event(DeviceType.CUDA, "gemm"), event(DeviceType.CUDA, "Memset")]
    assert gpu.count_launches([*events, event(DeviceType.CUDA, "Context Sync")]) == 2


def test_a_step_with_timms_attention_is_a_step(uncompiled):
    record = step.measure("sample", ["timm fused, compiled", "esvit_fast"], 2, "fp32", "cpu", 2)
    rows = record["contestants"]
    assert list(rows) == ["plain torch", "timm fused, compiled", "esvit_fast"]
    assert all(row["gate"] == "pass" and row["error"] < 0.1 for row in rows.values())


def test_a_step_is_taken_without_cuda_too():
    facts = ops.Facts("cuda", torch.float16, {}, capability=(9, 0), unproven=True)
    with step.without_cuda():
        assert ops.plan("window_attention", facts).backend == "triton"
        assert "cuda" not in implementations("window_attention")
    assert "cuda" in implementations("window_attention")


def test_every_file_of_tests_has_a_record_when_it_is_over(tmp_path):
    """Also where processes run tests of several files at the same time."""
    recorder = gpu_tests.Recorder(tmp_path, "cpu")
    first, second = "tests/ops/test_window_attention_gpu.py", "tests/training/test_step_gpu.py"
    tests = [f"{first}::a[triton-0]", f"{first}::b[triton-0]", f"{second}::a"]

    def report(test, outcome, when="call"):
        recorder.pytest_runtest_logreport(SimpleNamespace(nodeid=tests[test], outcome=outcome, when=when))

    recorder.expect(tests)
    report(0, "passed", "setup")
    recorder.pytest_xdist_node_collection_finished(None, tests)
    report(2, "skipped", "setup")
    report(0, "passed")
    report(0, "passed", "teardown")
    report(1, "failed")
    assert performance.read(tmp_path) == []
    report(1, "passed", "teardown")
    report(2, "passed", "teardown")
    (red,) = performance.read(tmp_path)  # of the other, all are skipped, which shows nothing
    assert (red.record["stem"], red.record["gate"], red.record["passed"]) == ("window_attention", "fail", 1)
    assert red.record["failed"] == tests[1:2] and red.record["backends"] == ["triton"]
    assert gpu_tests.stem(second) == "step"


def test_what_a_sanitizer_says_is_judged():
    clean = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
    assert sanitizer.judge(0, clean) == ("pass", "ERROR SUMMARY: 0 errors")
    race = "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)\n"
    assert sanitizer.judge(sanitizer.FOUND, race) == (
        "fail",
        "RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)",
    )
    assert sanitizer.judge(1, "========= Error: Device not supported\n")[0] == "absent"
    assert sanitizer.judge(0, "")[0] == "absent"


@pytest.mark.parametrize("operator", sanitizer.OPERATORS)
def test_the_smallest_shapes_run(operator):
    assert sanitizer.run(operator, "cpu", ["cpu"]) == 0
    assert sanitizer.run(operator, "cpu", ["cuda"]) == 1  # there is none, and nothing was shown
