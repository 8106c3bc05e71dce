"""The benchmark of the loss: its cases, who takes part, what is left out for its memory, and the foreign losses."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F

from benchmarks import run
from benchmarks.measuring import memory
from benchmarks.operators import prototype_cross_entropy as benchmark
from benchmarks.operators import prototype_cross_entropy_liger as liger
from benchmarks.operators.prototype_cross_entropy import CONTESTANTS, HARD, Case, Contestant

TINY = Case(2, 40, width=16)
GIB = 2**30
pytestmark = pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")  # it is torch's own


def divergence(student, weight, teacher, teacher_weight, bias):
    """What Liger's are: rows one to one, one temperature, a mean."""
    log_p = (student @ weight.T / 0.1).log_softmax(-1)
    target = ((teacher @ teacher_weight.T + bias) / 0.1).log_softmax(-1)
    return F.kl_div(log_p, target, reduction="batchmean", log_target=True)


def without_bias(student, weight, teacher, teacher_weight, bias):
    wide = liger.with_bias(teacher, teacher_weight, bias)
    assert wide[0].shape[1] == wide[1].shape[1] == teacher.shape[1] + 8
    return divergence(student, weight, *wide, torch.zeros_like(bias))


@pytest.mark.parametrize("name", ["as published", "esvit_fast cpu", "esvit_fast chunked"])
def test_everyone_computes_the_same(name):
    if CONTESTANTS[name].refuse("cpu"):
        pytest.skip("it does not run here")
    assert benchmark.gate(name, TINY, torch.float32, "cpu") <= 1


@pytest.mark.parametrize("loss", [divergence, without_bias])
def test_rows_one_to_one_at_one_temperature_do_the_same_work(monkeypatch, loss):
    """But for the teacher's entropy, which has no gradient."""
    peer = Contestant(benchmark.peer(lambda temperature: loss), benchmark._few(0, 0), divergence=True)
    monkeypatch.setitem(CONTESTANTS, "peer", peer)
    assert benchmark.gate("peer", TINY, torch.float32, "cpu") <= 1
    monkeypatch.setitem(CONTESTANTS, "peer", Contestant(peer.make, peer.held))
    assert benchmark.gate("peer", TINY, torch.float32, "cpu") > 100  # its loss is another


@pytest.mark.skipif(liger.MISSING is not None, reason=str(liger.MISSING))
@pytest.mark.slow
def test_liger_does_the_same_work():
    assert benchmark.gate("liger chunked", TINY, torch.float32, "cpu") <= 1


@pytest.mark.parametrize(
    ("tokens", "rows"), [("swin", (170, 98, 242)), ("vit16", (680, 392, 968)), ("vit8", (2720, 1568, 3872))]
)
def test_rows_of_an_image(tokens, rows):
    """Of students, of teachers, and pairs: as many as the inputs have."""
    case = Case(3, 40, tokens, 16)
    assert case.rows == tuple(3 * n for n in rows)
    x = benchmark.inputs(case, torch.float32, "cpu")
    pairs = benchmark.pairs(x)
    assert (len(x.student), len(x.teacher), len(pairs.weight)) == case.rows
    assert pairs.weight.sum().item() == pytest.approx(1)
    assert pairs.student_row.unique().numel() == case.rows[0]


@pytest.mark.parametrize("case", [Case(4, 4096), Case(16, 2048), Case(1, 4096, "vit16")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["torch eager", "as published", "esvit_fast cpu", "esvit_fast chunked"])
def test_no_one_allocates_more_than_is_estimated(name, case, dtype):
    contestant = CONTESTANTS[name]
    if contestant.refuse("cpu"):
        pytest.skip("it does not run here")
    x = benchmark.inputs(case, dtype, "cpu")
    peak = memory.peak_bytes(lambda: benchmark.results(contestant.make(x), x), "cpu")
    held = contestant.held(case, dtype.itemsize)
    assert peak <= held <= 2 * peak + (80 << 20)


def test_who_takes_part_depends_on_what_is_free():
    """At 64 images and 65,536 prototypes scores of all rows take 10 to 13 GiB; who has none always fits."""

    def left_out(case, most, dtype=torch.float32):
        reasons = {name: benchmark.refusal(name, case, dtype, "cpu", most * GIB) for name in CONTESTANTS}
        return {name for name, reason in reasons.items() if reason and "would hold" in reason}

    large, largest = Case(64, 65536), Case(128, 131072, "vit8")
    scores = {"torch eager", "as published", "torch.compile"}
    assert left_out(Case(8, 65536), 3) == left_out(large, 14) == set()
    assert left_out(large, 12) == {"torch eager", "as published"}
    assert left_out(large, 12, torch.bfloat16) == {"torch eager"}
    assert left_out(large, 4) == left_out(largest, 100) == left_out(Case(128, 131072), 8, torch.bfloat16) == scores
    reason = benchmark.refusal("torch eager", large, torch.float32, "cpu", 12 * GIB)
    assert reason == "it would hold about 12.5 GiB, and 12.0 GiB are allowed"
    assert 0 < memory.free_bytes("cpu") < 2**50


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cpu"])
def test_who_takes_part_on_a_gpu_is_planned_without_one(monkeypatch, device):
    monkeypatch.setattr(liger, "MISSING", None)
    refused = {name: benchmark.refusal(name, TINY, torch.bfloat16, device, GIB) for name in CONTESTANTS}
    there = {"esvit_fast triton", "liger fused JSD"} if "cuda" in device else {"esvit_fast cpu"}
    assert {name for name, reason in refused.items() if reason is None} == there | {
        "torch eager", "as published", "torch.compile", "liger chunked", "esvit_fast chunked",
    }  # fmt: skip
    monkeypatch.setattr(liger, "MISSING", "it is not here")
    assert benchmark.refusal("liger chunked", TINY, torch.bfloat16, device, GIB) == "it is not here"
    assert benchmark.refusal("cut cross-entropy", TINY, torch.bfloat16, device, GIB) == HARD


def test_a_record_says_why_someone_is_absent():
    names = ["torch eager", "esvit_fast chunked", "esvit_fast triton", "cut cross-entropy"]
    case = Case(2, 4096, width=16)
    most = CONTESTANTS["esvit_fast chunked"].held(case, 4)
    assert most < CONTESTANTS["torch eager"].held(case, 4)
    record = benchmark.measure(case, names, torch.float32, "cpu", 2, most)
    rows = record["contestants"]
    gates = {name: row["gate"] for name, row in rows.items()}
    assert gates == dict.fromkeys(names, "absent") | {"esvit_fast chunked": "pass"}
    assert "would hold" in rows["torch eager"]["why"] and rows["cut cross-entropy"]["why"] == HARD
    table = benchmark.table(record).splitlines()
    for name, row in rows.items():
        (line,) = (line for line in table if line.strip().startswith(name))
        assert row.get("why", " ms") in line
    none = benchmark.measure(case, names, torch.float32, "cpu", 2, 0)
    assert all(row["gate"] == "absent" for row in none["contestants"].values()) and benchmark.table(none)
    assert record["shape"] == {"batch": 2, "prototypes": 4096, "tokens": "swin", "width": 16}


def test_a_grid_is_run_case_by_case(monkeypatch, tmp_path):
    cases = []

    def measure(case, names, dtype, device, rounds, most):
        cases.append((case.tokens, case.batch, case.prototypes))
        assert names == ["torch eager", "cut cross-entropy"] and most == 2 * GIB and rounds == 3
        return {"contestants": {}, "shape": vars(case), "case": "", "dtype": "", "environment": {"device": "cpu"}}

    monkeypatch.setattr(benchmark, "measure", measure)
    arguments = "prototype_cross_entropy --batch 8 128 --prototypes 4096 131072 --tokens swin vit8 --rounds 3 "
    arguments += f"--memory 2 --device cpu --records {tmp_path} --contestants"
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments.split(), "torch eager", "cut cross-entropy"])
    run.main()
    assert cases == [(t, b, k) for t in ("swin", "vit8") for b in (8, 128) for k in (4096, 131072)]
    assert len((tmp_path / "cpu" / "prototype_cross_entropy.jsonl").read_text().splitlines()) == 8
