"""The doctor of a run: series of real runs (written by benchmarks/experiments/collapse.py --series), and drawn ones."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.experiments.collapse import CASES, QUANTITIES, config_of
from esvit_fast.config import load_config
from esvit_fast.methods.esvit_signs import SIGNS as KINDS
from esvit_fast.training.monitoring.diagnostics import RECORDS, STEPS, Diagnosis

CONFIG = load_config("cifar10_swin_nano")  # K = 512
UNIFORM = math.log(512)
HEALTHY = {
    "epoch": 1.0, "view_loss": 5.0, "region_loss": 5.0, "teacher_entropy": 2.7, "region_teacher_entropy": 2.0,
    "marginal_entropy": 6.0, "region_marginal_entropy": 6.0, "prototypes_used": 120.0, "region_prototypes_used": 400.0,
    "grad_norm": 3.0, "skipped_steps": 0, "feature_rank": 25.0, "update_ratio": 1e-3, "teacher_temp": 0.02,
    "center_norm": 3.0, "region_center_norm": 3.0, "match_similarity": 0.7, "match_margin": 0.03, "match_repeated": 0.6,
}  # fmt: skip
SICK = {
    "uniform collapse": {"region_teacher_entropy": 0.999 * UNIFORM, "region_loss": UNIFORM},
    "single-prototype collapse": {"marginal_entropy": 1e-6, "view_loss": 0.01, "prototypes_used": 1.0},
    "dimensional collapse": {"feature_rank": 1.5},
    "divergence": {"view_loss": 1.3 * UNIFORM},
    "dead student": {"grad_norm": 1e-4},
    "degenerate matching": {"match_similarity": 0.999, "match_margin": 1e-4},
    "learning rate too high": {"update_ratio": 0.2},
}


def follow(diagnosis, records):
    return [(record["step"], finding) for record in records for finding in diagnosis.see(record)]


def course(*parts, every=10):
    """Records of some steps each: (count, what differs from a healthy one)."""
    changes = [change for count, change in parts for _ in range(count)]
    return [{"step": 1 + every * i, **HEALTHY, **change} for i, change in enumerate(changes)]


def recorded(name):
    columns = json.loads((Path(__file__).parent / "collapses.json").read_text())[name]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_real_runs_are_judged_as_they_are(name):
    case, records = CASES[name], recorded(name)
    assert records[0]["step"] == 1 and records[-1]["step"] == 200
    found = follow(Diagnosis(config_of(case, ""), 64), records)
    if case.expected is None:
        assert found == []
    else:
        assert found[0][1].kind == case.expected and found[0][0] <= 150


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.expected])
def test_the_remedy_names_what_was_provoked(name):
    (_, finding), *_ = follow(Diagnosis(config_of(CASES[name], ""), 64), recorded(name))
    assert (
        finding.remedy
        == {
            "teacher temperature 0.2": "lower method.teacher_temp=0.2 and method.teacher_temp_start=0.2 to 0.04",
            "no centering": "lower method.center_momentum=1, which holds the centre, to 0.9",
            "learning rate x30": "lower train.learning_rate=0.06 to 0.006",
        }[name]
    )


@pytest.mark.parametrize("kind", SICK)
def test_each_sign_is_told_once_it_lasts(kind):
    found = follow(Diagnosis(CONFIG, 64), course((5, {}), (20, SICK[kind])))
    assert [(step, finding.kind, finding.since) for step, finding in found] == [(71, kind, 51)]
    assert found[0][1].remedy and str(found[0][1]).startswith(f"{kind} since step 51: ")


def test_a_centre_that_grows_and_steps_that_are_not_taken():
    runs = Diagnosis(CONFIG, 64), Diagnosis(CONFIG, 64), Diagnosis(CONFIG, 64)
    growing = course(*[(1, {"center_norm": 3.0 * 1.5**i}) for i in range(20)])
    high = course((20, {"center_norm": 3.0 * 1.5**19}))
    skipping = course(*[(1, {"skipped_steps": i}) for i in range(20)])
    assert [finding.kind for _, finding in follow(runs[0], growing)] == ["runaway centre"]
    assert follow(runs[1], high) == []
    assert [finding.kind for _, finding in follow(runs[2], skipping)] == ["divergence"]
    half = replace(CONFIG, train=replace(CONFIG.train, precision="fp16"))
    assert follow(Diagnosis(half, 64), skipping) == [], "the search for a loss scale is no divergence"


def test_every_kind_is_tested():
    assert {*SICK, "runaway centre"} == set(KINDS)


@pytest.mark.parametrize("kind", SICK)
def test_a_sign_that_comes_and_goes_is_not_told(kind):
    assert follow(Diagnosis(CONFIG, 64), course((3, {}), *[(2, SICK[kind]), (1, {})] * 10)) == []
    assert follow(Diagnosis(CONFIG, 64), course((3, {}), (RECORDS + 5, SICK[kind]), every=2)) == []


def test_what_has_healed_may_be_told_again():
    sick = SICK["single-prototype collapse"]
    records = course((3, {}), (5, sick), (2, {}), (5, sick), (RECORDS, {}), (5, sick))
    assert [step for step, _ in follow(Diagnosis(CONFIG, 64), records)] == [51, 201]
    assert STEPS <= 20


def test_a_replay_tells_nothing_new():
    records = course((5, {}), (20, SICK["dimensional collapse"]))
    for cut in range(1, len(records)):
        again = Diagnosis(CONFIG, 64)
        before = follow(again, records[:cut])
        assert before + follow(again, records[cut:]) == follow(Diagnosis(CONFIG, 64), records)


def test_a_flat_teacher_has_until_the_middle_of_the_warm_up():
    flat = {"teacher_entropy": UNIFORM, "view_loss": UNIFORM}
    config = replace(CONFIG, train=replace(CONFIG.train, warmup_epochs=2.0))
    early = course(*[(1, {"epoch": i / 100, **flat}) for i in range(120)])
    assert [step for step, _ in follow(Diagnosis(config, 64), early)] == [1021]


def test_a_batch_of_few_images_uses_few_prototypes():
    sharp = {"marginal_entropy": math.log(4), "prototypes_used": 4.0}
    assert follow(Diagnosis(CONFIG, 4), course((20, sharp))) == []
    assert follow(Diagnosis(CONFIG, 1), course((20, {"marginal_entropy": 1e-9}))) == []


@pytest.mark.parametrize("value", [None, math.nan])
def test_what_is_missing_shows_nothing(value):
    records = course((20, dict.fromkeys(QUANTITIES[1:], value)))
    assert follow(Diagnosis(CONFIG, 64), records) == []
    assert follow(Diagnosis(CONFIG, 64), [{"step": i} for i in range(100)]) == []


@pytest.mark.parametrize(
    ("method", "train", "kind", "remedy"),
    [
        ({"teacher_temp": 0.02}, {}, "uniform collapse", "to 0.01"),
        ({}, {}, "single-prototype collapse", "raise method.teacher_temp=0.02 to 0.03"),
        ({"centering": "mean"}, {}, "single-prototype collapse", "set method.centering=mean to sinkhorn"),
        ({}, {}, "dimensional collapse", "raise method.koleo_weight=0.5 to 1"),
        ({"koleo_weight": 0.0}, {}, "dimensional collapse", "raise method.koleo_weight=0 to 0.1"),
        ({"koleo_weight": 0.0, "view_weight": 0.0}, {}, "dimensional collapse", "lower train.learning_rate=0.002 to"),
        ({}, {"clip_grad": 0.0}, "divergence", "to 0.00067, and set train.clip_grad=0 to 3"),
        ({"match_dtype": "float16"}, {}, "degenerate matching", "set method.match_dtype=float16 to None"),
    ],
)
def test_remedies_name_a_setting_and_its_value(method, train, kind, remedy):
    config = replace(CONFIG, method=replace(CONFIG.method, **method), train=replace(CONFIG.train, **train))
    ((_, finding),) = follow(Diagnosis(config, 64), course((3, {}), (10, SICK[kind])))
    assert remedy in finding.remedy
