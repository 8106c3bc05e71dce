"""Launch tables from measurements on paper: what is chosen, and how it is written."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks.compiled import tune
from benchmarks.operators.window_attention import CASES
from esvit_fast.kernels import _tables

ROOT = Path(__file__).parents[3]
SOURCE = (ROOT / "kernels" / "_tables.py").read_text()
PROBLEM = tune.CASES[0][1]


def line(mode, ms, case="stage 1", problem=PROBLEM, present=False, arch=90, **config):
    return {"arch": arch, "problem": problem, "case": case, "mode": mode, "config": config} | {
        "ms": {"p50": ms},
        "present": present,
    }


def test_both_passes_share_the_number_of_programs():
    lines = [
        line("forward", 10, programs=528, num_warps=4, present=True),
        line("backward", 30, programs=528, num_warps_backward=4, present=True),
        line("forward", 7, programs=528, num_warps=8),  # the fastest forward pass of all
        line("forward", 8, programs=264, num_warps=4),
        line("backward", 25, programs=264, num_warps_backward=8),
        line("backward", 29, programs=528, num_warps_backward=8),
    ]
    assert tune.choose(lines) == {90: {PROBLEM: {"programs": 264, "num_warps": 4, "num_warps_backward": 8}}}


def test_what_is_hardly_faster_is_not_chosen():
    lines = [
        line("forward", 10, programs=528, num_warps=4, present=True),
        line("backward", 30, programs=528, num_warps_backward=4, present=True),
        line("forward", 9, programs=528, num_warps=8),
    ]
    assert tune.choose(lines) == {}  # 39 of 40
    assert tune.choose(lines[2:]) == {}  # nothing to compare with
    assert tune.choose([]) == {}


def test_a_problem_of_several_cases_is_chosen_for_all():
    lines = [
        line(mode, ms, case, programs=528, **{name: warps}, present=warps == 4)
        for mode, name in (("forward", "num_warps"), ("backward", "num_warps_backward"))
        for case, warps, ms in (("a", 4, 10), ("b", 4, 10), ("a", 8, 2), ("b", 8, 30), ("a", 2, 8), ("b", 2, 9))
    ] + [line("forward", 1, "a", programs=528, num_warps=1)]  # did not compile for b
    assert tune.choose(lines)[90][PROBLEM] == {"programs": 528, "num_warps": 2, "num_warps_backward": 2}


def test_the_loss_has_no_programs_to_share():
    lines = [
        line("forward", 5.0, "loss", tune.LOSS, True, block_m=64, block_n=32, num_warps=8),
        line("forward", 4.0, "loss", tune.LOSS, block_m=128, block_n=32, num_warps=8),
        line("backward", 5.0, "loss", tune.LOSS, True, block_k=64, block_r=32, num_warps_backward=8),
    ]
    chosen = tune.choose(lines)[90][tune.LOSS]
    assert chosen["block_m"] == 128 and chosen["block_k"] == 64 and chosen["num_warps_backward"] == 8


def test_a_table_is_written_in_place_and_read_by_the_kernels():
    tuned = {90: {PROBLEM: {"programs": 264, "num_warps": 2}, tune.LOSS: {"block_n": 64}}}
    text = tune.render(SOURCE, tuned)
    assert tune.render(text, {}) == text and tune.render(SOURCE, {}) == SOURCE
    assert text.replace(text[text.index("TUNED:") : text.index('"""By arch')], "") == SOURCE.replace(
        SOURCE[SOURCE.index("TUNED:") : SOURCE.index('"""By arch')], ""
    )
    assert all(len(row) <= 120 for row in text.splitlines()) and ast.parse(text)
    more = tune.render(text, {80: {PROBLEM: {"programs": 216}}, 90: {PROBLEM: {"programs": 396}}})
    scope: dict = {}
    exec(compile(more, "tables", "exec"), scope)  # noqa: S102
    assert scope["TUNED"] == {
        80: {PROBLEM: {"programs": 216}},
        90: {PROBLEM: {"programs": 396}, tune.LOSS: {"block_n": 64}},
    }
    found = scope["window_attention"]((9, 0), 2, 49, 49, 32)
    assert found == _tables.window_attention((9, 0), 2, 49, 49, 32) | {"programs": 396}
    assert scope["window_attention"]((8, 6), 2, 49, 49, 32)["programs"] == 216
    assert scope["window_attention"]((10, 0), 2, 49, 49, 32) == _tables.window_attention((10, 0), 2, 49, 49, 32)
    loss = scope["prototype_cross_entropy"](2, 256, 65536, (9, 0))
    assert loss["block_n"] == 64 and loss["splits"] * loss["tiles_of_split"] * 64 == 65536


def test_a_source_without_a_table_is_refused():
    with pytest.raises(ValueError, match="no table TUNED"):
        tune.render("WARPS = {}\n", {})


def test_problems_have_the_names_that_the_table_asks_for(monkeypatch):
    class Asked(dict):
        def get(self, name, default=None):
            names.append(name)
            return default

    names: list[str] = []
    monkeypatch.setattr(_tables, "TUNED", {90: Asked()})
    for name, problem in tune.CASES:
        case = next(case for case in CASES if case.name == name)
        tokens = min(case.window_size, case.side) ** 2
        keys = tokens + (case.side % case.window_size > 0)
        _tables.window_attention((9, 0), 2, tokens, keys, case.dim // case.num_heads)
        assert names[-1] == problem
    _tables.prototype_cross_entropy(2, 256, 65536, (9, 0))
    assert names[-1] == tune.LOSS


def test_candidates_begin_with_what_is_there():
    present = _tables.window_attention((9, 0), 2, 49, 49, 32)
    found = list(tune.candidates(PROBLEM, 132, present))
    assert [c.config for c in found if c.present] == [
        {"programs": present["programs"], "num_warps": present["num_warps"]},
        {"programs": present["programs"], "num_warps_backward": present["num_warps_backward"]},
    ]
    assert found[0].present and len({(c.mode, *sorted(c.config.items())) for c in found}) == len(found)
    loss = list(tune.candidates(tune.LOSS, 132, _tables.prototype_cross_entropy(2, 256, 65536)))
    assert sum(c.present for c in loss) == 2 and len(loss) == len(tune.FORWARD) + len(tune.BACKWARD)


def test_nothing_is_written_without_measurements(tmp_path, capsys):
    with pytest.raises(SystemExit):
        tune.main(["write", str(tmp_path)])
    assert "has no measurements; make them on a GPU first" in capsys.readouterr().err
