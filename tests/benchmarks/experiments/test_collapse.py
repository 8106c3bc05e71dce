"""The benchmark of the doctor: what passes its gate, and what it prints and keeps."""

import json
import sys

import pytest

from benchmarks.experiments import collapse
from benchmarks.experiments.collapse import CASES, QUANTITIES, series, table
from esvit_fast.methods.esvit_signs import SIGNS as KINDS
from esvit_fast.training.monitoring.diagnostics import Diagnosis, Finding

DATA = "sample:200"


def test_every_collapse_has_a_name_and_the_settings_are_those_that_are_provoked():
    assert {case.expected for case in CASES.values()} <= {None, *KINDS}
    hot, free, fast, plain = (collapse.config_of(case, DATA) for case in list(CASES.values())[:4])
    assert (hot.method.teacher_temp, hot.method.teacher_temp_start) == (0.2, 0.2)
    assert free.method.centering == "mean" and free.method.center_momentum == 1.0
    assert fast.train.learning_rate == pytest.approx(30 * plain.train.learning_rate)
    assert fast.method == plain.method


def test_a_run_passes_if_it_is_named_as_what_it_is(monkeypatch):
    named = iter(["uniform collapse"])

    def see(self, record):
        return [Finding(next(named), 1, "by this", "change that")] if record["step"] == 2 else []

    monkeypatch.setattr(
        collapse,
        "BASE",
        collapse.replace(collapse.BASE, train=collapse.replace(collapse.BASE.train, log_every_steps=1)),
    )
    monkeypatch.setattr(Diagnosis, "see", see)
    result, records = collapse.measure(CASES["teacher temperature 0.2"], DATA, 2)
    assert (result["gate"], [w["step"] for w in result["findings"]], len(records)) == ("pass", [2], 2)
    assert "step 2: uniform collapse since 1: by this; change that" in table({"hot": result})
    kept = series(records)
    assert kept.keys() == {*QUANTITIES} and kept["step"] == [1, 2]
    assert kept["feature_rank"][1] == pytest.approx(records[1]["feature_rank"], rel=1e-3)
    named = iter(["divergence"])
    assert collapse.measure(CASES["teacher temperature 0.2"], DATA, 2)[0]["gate"] == "fail"


def test_what_is_healthy_must_stay_unnamed(tmp_path, monkeypatch, capsys):
    argv = ["--data", DATA, "--cases", "views alone", "--steps", "1", "--dry", "--series", str(tmp_path / "kept.json")]
    monkeypatch.setattr(sys, "argv", ["collapse.py", *argv])
    collapse.main()
    assert "views alone: pass, nothing found" in capsys.readouterr().out
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert kept["views alone"]["step"] == [1] and "region_loss" not in kept["views alone"]
    monkeypatch.setattr(Diagnosis, "see", lambda self, record: [Finding("divergence", 1, "", "")])
    assert collapse.measure(CASES["views alone"], DATA, 1)[0]["gate"] == "fail"
