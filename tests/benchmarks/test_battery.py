"""The battery without a GPU: boxes of time, what a kill leaves, going on, what a machine lacks, and the table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import battery
from benchmarks.battery import PARTS, Part
from benchmarks.compiled.sanitizer import with_kernels
from benchmarks.measuring import build, machine
from benchmarks.measuring.machine import Machine

from . import paper

ROOT = Path(__file__).parents[2]
H200 = Machine(
    "NVIDIA H200",
    (9, 0),
    "580.159",
    "13.0",
    frozenset({"nvcc", "nvidia-smi", "gcc", "compute-sanitizer"}),
    frozenset(machine.PACKAGES),
)


def part(name, code, minutes=1.0, **more):
    return Part(name, f"stand-in {name}", ("-c", code), minutes, **more)


def states(out):
    return [json.loads(line) for line in (out / "state.jsonl").read_text().splitlines()]


def test_parts_are_a_table_that_fits():
    names = [p.name for p in PARTS]
    assert len(set(names)) == len(names) and names[:3] == ["build", "ceilings", "tests"]
    for p in PARTS:
        assert 0 < p.minutes <= 9 and set(p.needs) <= set(machine.NEEDS), p.name
        module = p.command[1] if p.command[0] == "-m" else p.command[0].removesuffix(".py").replace("/", ".")
        assert find_spec(module), p.name
        assert [argument.format(out="o", records="r", data="d") for argument in p.command]
    assert [p.name for p in PARTS if p.asked] == ["cifar10"]
    assert "cifar10" not in [p.name for p in battery.chosen(PARTS, [])]
    assert [p.name for p in battery.chosen(PARTS, ["step", "cifar10", "build"])] == ["build", "step", "cifar10"]


@pytest.mark.parametrize("p", [p for p in PARTS if p.command[0] == "benchmarks/run.py"], ids=lambda p: p.name)
def test_what_parts_ask_is_understood(p, monkeypatch):
    """As far as the command's own parser; nothing is measured."""
    from benchmarks import run

    asked = []
    monkeypatch.setattr(run, "measure", lambda benchmark, args: asked.append(args))
    run.main([argument.format(records="r", out="o", data="") for argument in p.command[1:]])
    assert len(asked) == 1 and asked[0].resume and asked[0].device == "cuda"


def test_every_operator_with_kernels_for_a_gpu_has_a_part():
    measured = {p.command[1] for p in PARTS if p.command[0] == "benchmarks/run.py"}
    assert {*with_kernels()} <= measured and not {*battery.NO_KERNELS} & {*with_kernels()}


def test_an_unknown_part_is_refused_by_name(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        battery.main(["--out", str(tmp_path), "--only", "step", "speed"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "--only speed: there is no such part; known: build, ceilings, tests, window_attention" in error


def test_without_a_gpu_one_line_and_exit_3(tmp_path):
    done = subprocess.run(
        [sys.executable, "benchmarks/battery.py", "--out", str(tmp_path / "out")],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3 and not done.stdout
    assert len(done.stderr.strip().splitlines()) == 1 and "GPU" in done.stderr
    assert not (tmp_path / "out").exists()


def test_parts_are_done_in_order_and_not_again(tmp_path, capsys):
    counted = "import pathlib; f = pathlib.Path(r'{out}', 'count'); f.open('a').write('{name}')"
    parts = [part(name, counted.replace("{name}", name)) for name in "ab"]
    outcomes = battery.run(parts, tmp_path)
    assert [(o.part, o.outcome) for o in outcomes] == [("a", "done"), ("b", "done")]
    assert (tmp_path / "count").read_text() == "ab" and (tmp_path / "logs" / "a.txt").exists()
    battery.run(parts, tmp_path)
    assert (tmp_path / "count").read_text() == "ab" and "is done; --again repeats it" in capsys.readouterr().out
    battery.run(parts[1:], tmp_path, again=True)
    assert (tmp_path / "count").read_text() == "abb"


def test_what_was_done_at_another_commit_is_done_again(tmp_path, monkeypatch):
    parts = [part("a", "print('here')")]
    battery.run(parts, tmp_path)
    monkeypatch.setattr(battery.checkout, "commit", lambda: "f" * 40)
    battery.run(parts, tmp_path)
    assert [(s["part"], s["outcome"]) for s in states(tmp_path)] == [("a", "done")] * 2


def test_a_part_that_fails_says_why_and_the_rest_goes_on(tmp_path):
    parts = [part("a", "raise SystemExit('no such kernel')"), part("b", "pass"), part("c", "", needs=("triton",))]
    lacking = lambda p: ["triton is not installed"] if p.needs else []  # noqa: E731
    failed, done, missing = battery.run(parts, tmp_path, lacking=lacking)
    assert failed.outcome == "failed" and failed.why.startswith("no such kernel (")
    assert done.outcome == "done" and (missing.outcome, missing.why) == ("left out", "triton is not installed")
    assert [o.outcome for o in battery.run(parts[:1], tmp_path)] == ["failed"]  # it is tried again


@pytest.mark.parametrize(
    ("part", "outcome", "code"),
    [("loss", "failed", 1), ("loss", "cut short", 0), ("tests", "cut short", 1), ("tests", "left out", 0)],
)
def test_a_measurement_may_be_cut_short_but_no_tests(part, outcome, code):
    assert battery.code([battery.Outcome("build", "done"), battery.Outcome(part, outcome)]) == code


def test_boxes_end_a_part_and_all_it_started(tmp_path):
    """Also what ignores a polite request, and its children; what it had written stays."""
    code = (
        "import pathlib, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "pathlib.Path(r'{out}', 'child').write_text(str(child.pid))\n"
        "time.sleep(60)"
    )
    begin = time.monotonic()
    late = part("late", "pass")
    cut, never = battery.run([part("slow", code, 0.02), late], tmp_path, minutes=0.08, shortest=4)
    assert cut.outcome == "cut short" and cut.why == "its 1 s are over" and time.monotonic() - begin < 10
    assert never.outcome == "no time left"
    gone_within(3, (tmp_path / "child").read_text())
    again = battery.run([late], tmp_path)
    assert again[0].outcome == "done"


STAND_IN = """
import sys
from pathlib import Path
from benchmarks import battery
from benchmarks.battery import Part
record = "import json, pathlib, time; f = pathlib.Path(r'{records}', 'gpu', 'kernels.jsonl');" \\
    "f.parent.mkdir(parents=True, exist_ok=True);" \\
    "f.open('a').write(json.dumps({{'case': 'one'}}) + chr(10)); "
parts = [Part("first", "", ("-c", record), 1),
         Part("second", "", ("-c", record + "pathlib.Path(r'{out}', 'begun').touch(); time.sleep(60)"), 1)]
battery.run(parts, Path(sys.argv[1]))
"""


def test_a_kill_leaves_records_and_the_next_run_goes_on(tmp_path):
    command = [sys.executable, "-c", STAND_IN, str(tmp_path)]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.02)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert [(s["part"], s["outcome"]) for s in states(tmp_path)] == [("first", "done")]
    assert len((tmp_path / "records" / "gpu" / "kernels.jsonl").read_text().splitlines()) == 2
    gone_within(10, *children)  # the part went with its battery
    outcomes = battery.run([part("first", "raise SystemExit(1)"), part("second", "pass")], tmp_path)
    assert [o.outcome for o in outcomes] == ["done", "done"]


def gone_within(seconds, *processes):
    """Or waiting for nobody but a parent to ask after them."""
    deadline = time.monotonic() + seconds
    while any(alive(process) for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_line_that_was_cut_short_is_no_record(tmp_path):
    paper.everything(tmp_path / "records")
    with open(tmp_path / "records" / paper.GPU / "kernels.jsonl", "a") as lines:
        lines.write('{"op": "window_att')
    (tmp_path / "state.jsonl").write_text(
        '{"part": "window_attention", "outcome": "done", "seconds": 41.0}\n{"part": "st'
    )
    text = battery.table(tmp_path, battery.chosen(PARTS, ["window_attention", "step"]))
    assert f"{'window_attention':24} {'done':13} {41:8}" in text and f"{'step':24} not begun" in text
    stage1 = next(line for line in text.splitlines() if "stage 1" in line and "forward" in line)
    assert stage1.endswith(" 51.0 us   4.71x the fastest peer, 1.42 of the floor")


def test_the_table_alone_needs_no_gpu(tmp_path, capsys):
    assert battery.main(["--out", str(tmp_path), "--table", "--only", "tests"]) == 0
    assert f"{'tests':24} not begun" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        (Machine(cuda=None), "this torch was built without CUDA"),
        (Machine(cuda="13.0"), "no NVIDIA GPU that torch can use"),
        (Machine(cuda="13.0", driver="570.86.10"), "driver 570.86.10 is too old for torch with CUDA 13.0"),
        (Machine(cuda="12.8", driver="570.86.10"), "no NVIDIA GPU that torch can use"),
    ],
)  # fmt: skip
def test_why_there_is_no_gpu(facts, line):
    assert machine.no_gpu(facts).startswith(line)
    assert machine.no_gpu(H200) is None


def test_what_goes_on_without_says_the_remedy():
    assert machine.notes(H200) == []
    (nvcc,) = machine.notes(H200._replace(tools=H200.tools - {"nvcc"}))
    assert nvcc.startswith("nvcc is missing") and "install the CUDA toolkit" in nvcc
    (other,) = machine.notes(H200._replace(library=frozenset({"80", "100"})))
    assert "the CUDA library has code for sm_100, sm_80, this GPU is sm_90" in other
    assert other.endswith("build it here: python -m benchmarks.measuring.build --again")
    assert machine.notes(H200._replace(library=frozenset({"80", "90a"}))) == []


@pytest.mark.parametrize(
    ("library", "capability", "runs"),
    [
        ({"80"}, (8, 6), True),
        ({"86"}, (8, 0), False),
        ({"80"}, (9, 0), False),
        ({"90a"}, (9, 0), True),
        ({"100a"}, (10, 3), False),
        ({"100"}, (10, 3), True),
        ({"80", "100+"}, (12, 0), True),
        ({"80", "100+"}, (9, 0), False),
        (set(), (9, 0), False),
    ],
)
def test_which_code_runs_where(library, capability, runs):
    assert machine.runs_here(library, capability) is runs


def test_architectures_are_read_from_a_listing():
    listing = "ELF file    1: _C_cuda.1.sm_80.cubin\nELF file    2: _C_cuda.2.sm_90a.cubin\n"
    assert machine.architectures(listing + "PTX file    1: _C_cuda.1.sm_100.ptx\n") == {"80", "90a", "100+"}


def test_what_parts_need_is_looked_for():
    assert machine.lacking(battery.KERNELS, H200) == []
    bare = Machine("NVIDIA H200", (9, 0), cuda="13.0")
    needed = ("triton", "compiler", "pytest", "sanitizer", "data")
    reasons = machine.lacking(needed, bare)
    assert len(reasons) == len(needed) and all(": " in reason for reason in reasons)
    assert "pip install" in reasons[2] and "--data torchvision:CIFAR10@FOLDER" in reasons[4]
    assert machine.lacking(["data"], bare._replace(data=True)) == []


def test_only_what_is_stale_is_built(tmp_path):
    source, library = tmp_path / "a.cpp", tmp_path / "_C.so"
    source.touch()
    assert build.stale([source], [])
    library.touch()
    os.utime(library, (source.stat().st_mtime + 5,) * 2)
    assert not build.stale([source], [library])
    os.utime(source, (library.stat().st_mtime + 5,) * 2)
    assert build.stale([source], [library])


def test_kernels_are_linked_where_they_are_not_installed(tmp_path):
    (tmp_path / "esvit_fast").mkdir()
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "_tables.py").touch()
    assert build.link_kernels(tmp_path) and not build.link_kernels(tmp_path)
    assert (tmp_path / "esvit_fast" / "kernels" / "_tables.py").exists()
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/esvit_fast/kernels" in ignored
