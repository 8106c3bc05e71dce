"""A method is one file outside of the package: it is trained, resumed, divided, planned, evaluated and reported."""

import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from esvit_fast.config import MethodSettings, load_config
from esvit_fast.methods import Method, register_method
from esvit_fast.plugins import VARIABLE
from esvit_fast.runs.metrics import read_metrics
from esvit_fast.training import pretrain

from ..cli.calls import call, fails
from ..training.runs import CPU, Silent, as_rank, on_ranks, small, start, trained_weights

PLUGIN = str(Path(__file__).parent / "mean_color.py")


@pytest.fixture(autouse=True)
def plugins(monkeypatch):
    monkeypatch.setenv(VARIABLE, PLUGIN)


def config(**train):
    return replace(small(learning_rate=1e-3, **train), method=MethodSettings.of("mean_color")())


class Stopping(Silent):
    def step(self, step, record):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)


def with_plugin(rank, count, port, out, recipe):
    os.environ[VARIABLE] = PLUGIN
    as_rank(rank, count, port, out, load_config(recipe))


def test_a_run_resumes_to_the_same_bits_and_is_evaluated_and_reported(tmp_path, capsys):
    start(tmp_path / "whole", config())
    assert pretrain(config(), tmp_path / "parts", CPU, Stopping()).step == 5
    assert call(capsys, "resume", tmp_path / "parts", "--method.sharpness", 2.0)[0] == 0
    whole, parts = (trained_weights(tmp_path / run) for run in ("whole", "parts"))
    assert all(torch.equal(tensor, parts[key]) for key, tensor in whole.items())
    records = [r for r in read_metrics(tmp_path / "whole" / "metrics.jsonl") if r["kind"] == "train"]
    assert records[0]["share"] == 1 and 0 < records[-1]["share"] < 0.1 and records[-1]["color_error"] > 0
    assert "teacher_entropy" not in records[0]
    assert load_config(tmp_path / "whole" / "config.yaml") == config()
    assert call(capsys, "eval", "knn", tmp_path / "whole")[0] == 0
    code, _, err = call(capsys, "report", tmp_path / "whole")
    assert code == 0, err
    page = (tmp_path / "whole" / "report.html").read_text()
    assert "mean_color" in page and "EsViT" not in page


@pytest.mark.slow
def test_two_ranks_divide_its_weights(tmp_path):
    divided = config(epochs=1, shard=True)
    start(tmp_path / "one", divided)
    processes = on_ranks(2, tmp_path / "two", tmp_path / "one" / "config.yaml", with_plugin)
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    one, two = (trained_weights(tmp_path / run) for run in ("one", "two"))
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=1e-4, atol=1e-4, msg=lambda m, n=key: f"{n}: {m}")


def test_it_is_planned_and_its_settings_are_options(tmp_path, capsys):
    said = ("--recipe", "sample", "--data", "sample:256", "--method.name", "mean_color")
    code, out, err = call(capsys, "plan", *said, "--no-measure")
    assert code == 0 and ("GiB" in out or "MiB" in out), err
    code, out, _ = call(capsys, "pretrain", *said, "--help")
    assert code == 0 and "--method.sharpness" in out and "Factor of what is predicted" in " ".join(out.split())
    assert "--method.out-dim" not in out
    assert "--method.sharpness=0.0 must be greater than 0" in fails(capsys, "plan", *said, "--method.sharpness", 0)


def test_settings_of_another_method_are_told(tmp_path, capsys):
    start(tmp_path / "run", small(epochs=0.5))
    told = fails(capsys, "resume", tmp_path / "run", "--method.name", "mean_color", "--method.student-temp", 0.2)
    assert "--method.student-temp is no setting of method.name=mean_color; leave it out" in told.replace(
        "--method.name=", "method.name="
    )
    said = ("--recipe", "sample", "--data", "sample:256", "--method.name", "mean_color", "--method.name", "esvit")
    assert call(capsys, "plan", *said, "--method.out-dim", 64, "--no-measure")[0] == 0  # the last one counts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: {name: mean_colour}", r"method.name='mean_colour' is not a method; did you mean 'mean_color'\?"),
        (
            "method: {name: mean_color, out_dim: 8}",
            "unknown key 'out_dim'; it is a setting of method.name=esvit",
        ),
        ("method: {sharpness: 1}", "method: unknown key 'sharpness'; it is a setting of method.name=mean_color"),
        ("method: {sharpnes: 1}", "method: unknown key 'sharpnes'; known: name, out_dim"),
    ],
)
def test_a_recipe_of_another_method_is_told(tmp_path, text, message):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(tmp_path / "own.yaml")


def test_what_it_lacks_is_named():
    with pytest.raises(TypeError, match="the method 'Half' has no Settings and no build and no forward; see"):

        @register_method
        class Half(Method):
            def backbones(self):
                return []


def test_nobody_else_knows_a_setting_of_a_method():
    from esvit_fast.methods.esvit_settings import EsViTSettings

    package = Path(__file__).parents[2] / "esvit_fast"
    own = {"koleo_weight", "centering", "center_momentum", "head_hidden_dim", "match_dtype", "teacher_temp_start"}
    assert own <= EsViTSettings.__dataclass_fields__.keys()
    for path in package.rglob("*.py"):
        if not {"methods", "ops", "reference", "kernels"} & set(path.relative_to(package).parts):
            code = re.sub(r'""".*?"""|#.*', "", path.read_text(), flags=re.DOTALL)
            assert not re.search(rf"\b({'|'.join(own)}|EsViT\w*)\b", code), path
