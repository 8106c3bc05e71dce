"""How the commands of runs begin, go on and end: in one line, with the exit code that tells who can mend it."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from esvit_fast.cli import demo
from esvit_fast.config import Config, leaves, load_config, save_config
from tests.training.runs import folder_of_images, small, start, with_data

from .test_cli import call, fails


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    start(path, small(epochs=1))
    return path


def test_a_complete_run_says_so(capsys, run):
    code, _, err = call(capsys, "resume", run)
    assert code == 0
    assert err.splitlines()[-1] == (
        f"{run} is complete at step 6; nothing to do, weights in {run / 'model.safetensors'}; "
        f"`esvit-fast resume {run} --train.epochs N` with a larger N goes on"
    )
    assert "the run has done 6 (1 epochs); pass --train.epochs 1 or more" in fails(
        capsys, "resume", run, "--train.epochs", "0.5"
    )


def test_help_of_resume_names_all_that_may_change(capsys):
    _, out, _ = call(capsys, "resume", "--help")
    said = " ".join(out.split())
    every = [setting.name for setting in leaves(Config())]
    changeable = [setting.name for setting in leaves(Config()) if setting.may_change()]
    assert len(changeable) > 24 and "method.region_weight" in changeable and "train.seed" not in changeable
    told = {name for name in every if re.search(rf"--{name.replace('_', '-')}[ ,]", said)}
    assert told == set(changeable)


def test_weights_of_the_tasks_are_a_cure_but_not_their_absence(capsys, tmp_path):
    run = tmp_path / "run"
    start(run, small(epochs=0.5))
    assert "keep its own" in fails(capsys, "resume", run, "--method.region-weight", "0")
    assert call(capsys, "resume", run, "--method.region-weight", "0.25", "--train.epochs", "1")[0] == 0
    assert load_config(run / "config.yaml").method.region_weight == 0.25


def test_images_that_were_moved_are_named_on_resuming(capsys, tmp_path):
    source = Path(folder_of_images(tmp_path / "images"))
    start(tmp_path / "run", with_data(small(epochs=0.5), source=str(source)))
    source.rename(tmp_path / "moved")
    assert "does not exist" in fails(capsys, "resume", tmp_path / "run")
    assert call(capsys, "resume", tmp_path / "run", "--data", tmp_path / "moved", "--train.epochs", "1")[0] == 0
    assert load_config(tmp_path / "run" / "config.yaml").data.source == str(tmp_path / "moved")


def test_a_demo_takes_over_no_other_run(tmp_path):
    out = tmp_path / "demo"
    assert demo._free(out) == out
    out.mkdir()
    assert demo._free(out) == out
    (out / demo.MARK).touch()
    (out / "config.yaml").touch()
    assert demo._free(out) == out, "one that was cut short goes on"
    (out / "report.html").touch()
    assert demo._free(out) == tmp_path / "demo-2", "one that is finished stays"
    (tmp_path / "demo-2").mkdir()
    (tmp_path / "demo-2" / "config.yaml").touch()
    assert demo._free(out) == tmp_path / "demo-3", "somebody's run"
    own = load_config("sample")
    (tmp_path / "demo-3").mkdir()
    save_config(replace(own, train=replace(own.train, precision="fp32")), tmp_path / "demo-3" / "config.yaml")
    assert demo._free(out) == tmp_path / "demo-3", "a demo of an earlier version"
    save_config(replace(own, train=replace(own.train, epochs=5)), tmp_path / "demo-3" / "config.yaml")
    assert demo._free(out) == tmp_path / "demo-4"


def begin(tmp_path, *arguments):
    """A run with two workers in a process of its own, after its first steps."""
    save_config(with_data(small(epochs=200), workers=2), tmp_path / "recipe.yaml")
    command = [sys.executable, "-m", "esvit_fast", "pretrain", "--recipe", tmp_path / "recipe.yaml", "--out"]
    process = subprocess.Popen([*command, tmp_path / "run", *arguments], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "checkpoints").exists():
        assert process.poll() is None
        time.sleep(0.05)
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    return process, [int(pid) for task in tasks for pid in task.read_text().split()]


@pytest.mark.slow
def test_the_death_of_a_worker_is_one_line_and_exit_code_1(tmp_path):
    process, workers = begin(tmp_path)
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    (said,) = [line for line in err.splitlines() if not line.startswith(("swin", "step"))]
    assert process.returncode == 1
    assert said.startswith(f"esvit-fast: error: a worker process (pid {workers[0]}, one of 2) was killed (by hand, or")
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
