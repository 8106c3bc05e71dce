"""A run that commit bd4a9a3 began, before methods had names, goes on and is reported."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from esvit_fast.config import load_config
from esvit_fast.runs.checkpoint import load_latest, save_checkpoint
from esvit_fast.runs.metrics import read_metrics
from esvit_fast.training import Trainer

from ..cli.calls import call
from .runs import CPU, small

OLD = Path(__file__).parents[1] / "goldens" / "run_before_methods"
"""What that commit wrote of `small()`, stopped at step 5: names and shapes of its tensors stand for these, of 24 MB."""


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "environment.json", "metrics.jsonl"):
        shutil.copy(OLD / name, folder)
    meta = json.loads((OLD / "state.json").read_text())
    tensors, _ = Trainer(load_config(folder / "config.yaml"), 48, CPU).state()
    shapes = json.loads((OLD / "tensors.json").read_text())
    names = {"F32": torch.float32, "I64": torch.int64}
    made = {
        name: tensors.get(name, torch.zeros(shape)).reshape(shape).to(names[kind])
        for name, (kind, *shape) in shapes.items()
    }
    assert {name for name in tensors if name not in shapes} == set(), "what a checkpoint holds has other names now"
    save_checkpoint(folder, 5, made, meta, 1)
    return folder


def test_it_goes_on_and_is_reported(run, capsys):
    assert load_config(run / "config.yaml") == small()
    code, _, err = call(capsys, "resume", run)
    assert code == 0, err
    assert load_latest(run / "checkpoints").step == 12
    records = read_metrics(run / "metrics.jsonl")
    assert [r["step"] for r in records if r["kind"] == "train"] == list(range(1, 13))
    then, now = records[0], records[-1]
    assert then.keys() == now.keys()
    code, _, err = call(capsys, "report", run)
    assert code == 0 and (run / "report.html").is_file(), err
