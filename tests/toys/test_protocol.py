"""A protocol of at most 30 lines outside the package runs wherever those of the package do."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.calls import images
from tests.packaging.tree import ROOT
from tests.training.runs import small, start, with_data

TOY = Path(__file__).with_name("nearest_class.py")
PROGRAM = """
import json, sys
from esvit_fast.cli.main import main
for words in json.loads(sys.argv[1]):
    print("code", main(words), flush=True)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What commands print in one process that has the toy as a plug-in, and the page that one of them writes."""
    folder = tmp_path_factory.mktemp("toy")
    shutil.copy(TOY, folder / "my_protocol.py")
    images(folder / "data" / "train", ("a", "b", "c"), each=6), images(folder / "data" / "test", ("a", "b"), each=4)
    start(folder / "run", with_data(small(epochs=0.5), source=str(folder / "data")))
    run = str(folder / "run")
    commands = {
        "toy": ["eval", "toy", run, "--json", "--bank", "15"],
        "table": ["eval", "toy", run, "--power", "2"],
        "knn": ["eval", "knn", run, "--json", "--bank", "15", "--k", "1"],
        "report": ["report", run, "--json", "--bank", "15"],
        "near": ["eval", "tooy", run],
        "range": ["eval", "toy", run, "--power", "0"],
        "other": ["eval", "knn", run, "--power", "2"],
    }
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ESVIT_FAST_PLUGINS": str(folder / "my_protocol.py")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(list(commands.values()))],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    parts = done.stdout.split("code 0\n")
    errors = [line for line in done.stderr.splitlines() if line.startswith("esvit-fast: error: ")]
    return parts, errors, (folder / "run" / "report.html").read_text()


def test_the_toy_is_short():
    assert len(TOY.read_text().splitlines()) <= 30


def test_eval_runs_it(said):
    toy, table, knn = said[0][:3]
    toy, knn = json.loads(toy), json.loads(knn)
    assert toy["protocol"] == "toy" and toy["settings"] == {"power": 1.0}
    assert (toy["bank"], toy["queries"], toy["classes"]) == (15, 8, 3)
    assert toy["numbers"]["trained"][0]["right"] == pytest.approx(knn["numbers"]["trained"][0]["top1"])
    assert "right %" in table and "settings: power 2" in table and "8 test images among 18 training images" in table


def test_the_report_runs_it_after_the_others(said):
    alone, results, page = json.loads(said[0][0]), json.loads(said[0][3]), said[2]
    assert list(results) == ["knn", "linear", "correspondence", "health", "toy"]
    assert list(results["toy"]["numbers"]) == ["trained", "untrained"]
    assert results["toy"]["numbers"]["trained"] == alone["numbers"]["trained"]
    card = f'<h3>Nearest class</h3><p class="big">{alone["numbers"]["trained"][0]["right"]:.1f}<small>%'
    assert card in page and "<summary>Protocol: toy</summary>" in page


def test_its_name_and_its_settings_are_known(said):
    near, value, other = said[1]
    assert near.endswith("must be one of knn, linear, correspondence, toy; did you mean 'toy'?")
    assert value == "esvit-fast: error: --power=0.0 must be greater than 0"
    assert "--power=2.0 is read by `eval toy`, not by `eval knn`; leave it out" in other
