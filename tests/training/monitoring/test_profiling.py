"""Where a step's time goes: what is counted as what, and that it adds up."""

import gzip
import json
import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from esvit_fast.config import save_config
from esvit_fast.training import pretrain
from esvit_fast.training.monitoring.profiling import DATA, STEP, UPDATE, WARM_UP, group, summarize, table

from ..runs import CPU, Silent, small


@pytest.mark.parametrize(
    ("path", "counted"),
    [
        (["esvit_fast_cpu::linear", "esvit_fast::linear", STEP], "matrix products"),
        (["esvit_fast_cpu::linear_weight_gradient", "esvit_fast::linear_backward", STEP], "matrix products"),
        (["aten::convolution_backward", STEP], "matrix products"),
        (["aten::mkldnn_convolution", STEP], "matrix products"),
        (["aten::mm", "esvit_fast::prototype_cross_entropy", STEP], "loss over prototypes"),
        (["esvit_fast_cpu::window_attention_backward", "GeneratedBackwardFor_x", STEP], "window attention"),
        (["aten::gelu_backward", "GeluBackward0", STEP], "norms and activations"),
        (["aten::cat", STEP], "sums, copies and the like"),
        (["aten::_fused_adamw_", "Optimizer.step#AdamW.step", UPDATE, STEP], UPDATE),
        (["Optimizer.step#AdamW.step", UPDATE, STEP], "Python and framework"),
        (["esvit_fast::linear", STEP], "Python and framework"),
        (["autograd::engine::evaluate_function: MulBackward0", STEP], "Python and framework"),
        (["aten::stack", DATA, STEP], DATA),
        ([STEP], "Python and framework"),
    ],
)
def test_what_is_counted_as_what(path, counted):
    assert group(path) == counted


def test_on_a_gpu_kernels_belong_to_the_operator_that_launched_them():
    assert group(["esvit_fast::window_attention", STEP], on_gpu=True) == "window attention"


def event(name, self_us, parent=None):
    kind = torch.autograd.DeviceType.CPU
    return SimpleNamespace(name=name, self_cpu_time_total=self_us, cpu_parent=parent, device_type=kind)


def test_shares_add_up_and_what_is_in_no_operator_is_overhead():
    steps = [event(STEP, 1000) for _ in range(2)]
    events = [*steps, *(event("aten::mm", 6000, step) for step in steps), event("aten::add", 2000, steps[0])]
    events += [event(DATA, 3000, steps[1]), event("aten::mm", 5000)]  # the last is not of a step
    found = summarize(events, seconds=0.020)
    assert {name: of["ms"] for name, of in found["groups"].items()} == pytest.approx(
        {"matrix products": 6, "sums, copies and the like": 1, DATA: 1.5, "Python and framework": 1.5}
    )
    assert found["steps"] == 2 and found["operators"] == pytest.approx(0.7)
    assert found["products_and_fused"] == pytest.approx(0.6)
    lines = table({"title": "a net", **found}).splitlines()
    assert lines[0] == "a net: 10 ms a step, mean of 2 steps"
    assert lines[2].split() == ["in", "operators", "70.0%", "7.0", "ms"]


def test_a_run_is_profiled_and_goes_on(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert pretrain(small(), tmp_path / "run", CPU, Silent(), profile=2).step == 12
    found = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert found["steps"] == 2 and found["title"].startswith("swin_nano_w4, 8 images on")
    groups = found["groups"]
    assert sum(of["share"] for of in groups.values()) == pytest.approx(1)
    assert {"matrix products", "window attention", "loss over prototypes", UPDATE, DATA} <= groups.keys()
    assert all(of["ms"] > 0 for of in groups.values())
    text = (tmp_path / "run" / "profile.txt").read_text()
    assert text.strip() in caplog.text and f"{found['ms']:,.0f} ms a step" in text
    with gzip.open(tmp_path / "run" / "trace.json.gz") as trace:
        names = [e.get("name") for e in json.load(trace)["traceEvents"]]
    assert names.count("aten::_fused_adamw_") >= 2 and STEP in names


def test_a_run_that_goes_on_is_profiled(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    save_config(small(epochs=1), run / "config.yaml")  # it ended before its first checkpoint
    pretrain(small(epochs=1), run, CPU, Silent(), profile=1, or_resume=True)
    assert json.loads((run / "profile.json").read_text())["steps"] == 1


def test_a_run_that_ends_too_early_says_so(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        pretrain(small(epochs=0.5, warmup_epochs=0), tmp_path / "run", CPU, Silent(), profile=2)
    assert f"after the first {WARM_UP}" in caplog.text and not (tmp_path / "run" / "profile.txt").exists()


def test_no_library_speaks_up_while_steps_are_looked_at(tmp_path):
    """In a process of its own, as what C++ writes goes past what Python captures."""
    code = (
        "import sys, torch\nfrom pathlib import Path\n"
        "from esvit_fast.training.monitoring.profiling import WARM_UP, StepProfiler\n"
        "with StepProfiler(1, Path(sys.argv[1]), torch.device('cpu')) as profiler:\n"
        "    for _ in range(WARM_UP + 2):\n        profiler.next()\n        torch.ones(3) + 1\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "KINETO_LOG_LEVEL"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (tmp_path / "trace.json.gz").exists()
    leaked = [line for line in done.stderr.splitlines() if "ERROR" in line or "arn" in line or ".cpp" in line]
    assert leaked == []
