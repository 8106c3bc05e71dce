"""Records of the tests marked gpu."""

from __future__ import annotations

from types import SimpleNamespace

from benchmarks.measuring import gpu_tests
from benchmarks.report import reading


def test_every_file_of_tests_has_a_record_when_it_is_over(tmp_path):
    """Also where processes run tests of several files at the same time."""
    recorder = gpu_tests.Recorder(tmp_path, "cpu")
    first, second = "tests/ops/test_window_attention_gpu.py", "tests/training/step/test_step_gpu.py"
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
    assert reading.read(tmp_path) == []
    report(1, "passed", "teardown")
    report(2, "passed", "teardown")
    (red,) = reading.read(tmp_path)  # of the other, all are skipped, which shows nothing
    assert (red.record["stem"], red.record["gate"], red.record["passed"]) == ("window_attention", "fail", 1)
    assert red.record["failed"] == tests[1:2] and red.record["backends"] == ["triton"]
    assert gpu_tests.stem(second) == "step"
