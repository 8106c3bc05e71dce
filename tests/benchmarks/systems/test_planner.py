"""The benchmark of plans: what is predicted, what is measured, and who passes."""

import pytest

from benchmarks.systems import planner

FOUND = {"tensors": 100.0, "resident": 200.0, "seconds": 1.0}


@pytest.mark.parametrize(
    ("predicted", "gate"),
    [({}, "pass"), ({"tensors": 89.0}, "fail"), ({"resident": 221.0}, "fail"), ({"seconds": 1.2, "tried": 4}, "pass")],
)
def test_who_passes(monkeypatch, predicted, gate):
    asked = []

    def apart(function, *arguments):
        asked.append((function, *arguments))
        return {**FOUND, **predicted} if function == "predict" else FOUND

    monkeypatch.setattr(planner, "_apart", apart)
    record = planner.measure(["swin_nano_w4"], "fp32", "cpu")
    assert [row["gate"] for row in record["cases"]] == [gate] * 2
    assert [row["images"] for row in record["cases"]] == [64, 256]
    assert len(asked) == 6 and ("steps", "swin_nano_w4", 256, "fp32", "cpu") in asked
    assert planner.table(record).count(gate) == 2


@pytest.mark.slow
def test_a_prediction_and_a_measurement():
    plan, steps = (planner._apart(what, "swin_nano_w4", 8, "fp32", "cpu") for what in ("predict", "steps"))
    assert plan["tried"] == 4
    assert plan["tensors"] < plan["resident"] < 3 * plan["tensors"]
    assert steps["resident"] > plan["tensors"] and steps["seconds"] > 0


def test_a_failure_says_why(monkeypatch):
    with pytest.raises(SystemExit, match="swin_nano_w5 8 fp32 cpu failed: KeyError: 'swin_nano_w5'"):
        planner._apart("steps", "swin_nano_w5", 8, "fp32", "cpu")
