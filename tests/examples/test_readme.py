"""Every command and every block of code in README.md, run as it stands there but for smaller settings.

A line of README.md that is in none of the tables below fails a test: it is to be added with what a small run of it is,
or with the reason why it is left out.
"""

import os
import re
import runpy
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from esvit_fast.cli.main import main
from esvit_fast.config import save_config
from tests.packaging.tree import ROOT
from tests.training.runs import small

README = (ROOT / "README.md").read_text()

COMMANDS = {
    "esvit-fast doctor": "esvit-fast doctor",
    "esvit-fast recipes": "esvit-fast recipes",
    "esvit-fast pretrain --recipe NAME --help": "esvit-fast pretrain --recipe sample --help",
    "esvit-fast pretrain --recipe swin_tiny_w7 --data ~/images --out runs/a --train.batch-size 64": (
        "esvit-fast pretrain --recipe tiny.yaml --data ~/images --out runs/a --train.batch-size 8"
    ),
    "esvit-fast plan --recipe swin_tiny_w7 --gpu 4090 --world-size 8": (
        "esvit-fast plan --recipe tiny.yaml --gpu 4090 --world-size 8"
    ),
    "esvit-fast pretrain … --profile 5": (
        "esvit-fast pretrain --recipe tiny.yaml --data ~/images --out runs/b --profile 1"
    ),
    "esvit-fast resume runs/a": "esvit-fast resume runs/a",
    "esvit-fast eval knn runs/a": "esvit-fast eval knn runs/a --k 3",
    "esvit-fast report runs/a": "esvit-fast report runs/a --bank 16 --queries 8",
    "esvit-fast resume runs/a --train.learning-rate 1e-4": "esvit-fast resume runs/a --train.learning-rate 1e-4",
    "esvit-fast data check ~/images": "esvit-fast data check ~/images --workers 0",
    "esvit-fast data pack ~/images shards --short-side 512": (
        "esvit-fast data pack ~/images shards --short-side 512 --workers 0"
    ),
    "esvit-fast data preview shards --recipe swin_tiny_w7": "esvit-fast data preview shards --recipe tiny.yaml",
}
"""Lines and what is run of them, in the order of running."""
LAUNCHES = {
    "torchrun --standalone --nproc-per-node 8 --max-restarts 10 -m esvit_fast pretrain --recipe swin_tiny_w7 … "
    "--resume": "torchrun --standalone --nproc-per-node 2 --max-restarts 10 -m esvit_fast pretrain --recipe tiny.yaml "
    "--data ~/images --out runs/a --resume",
    "torchrun --standalone --nproc-per-node 4 -m esvit_fast resume runs/a": (
        "torchrun --standalone --nproc-per-node 2 -m esvit_fast resume runs/a --train.epochs 3"
    ),
}
"""Those of several processes, each a start of torch."""
LEFT_OUT = {
    "make demo": "it makes a virtual environment and trains for minutes; CI runs it",
    "make test": "it is what runs this",
    'pip install -c constraints.txt torch ninja "setuptools>=77,<82"': "it installs; every environment of CI does it",
    "pip install -c constraints.txt --no-build-isolation -e .": "as above",
    "pip install 'esvit-fast[log]'": "it installs from an index",
}
"""Lines that are not run, and why."""
SMALLER = (
    ("swin_tiny_w7", "swin_nano_w4"),
    ("out_dim=4096", "out_dim=64"),
    ("(224, 224, 96, 96)", "(32, 32, 16, 16)"),
)
"""What is smaller in blocks of Python."""


FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for found, text in FENCED.findall(README) if found == language]


def lines() -> list[str]:
    """Commands of blocks without a language, and of the text between blocks; without comments."""
    found = [line for block in blocks("") for line in block.splitlines()]
    text = FENCED.sub("", README)
    spans = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text))
    found += [span for span in spans if re.match(r"(esvit-fast|torchrun|make|pip) \S", span)]
    return list(dict.fromkeys(re.sub(r"\s+#.*", "", line).strip() for line in found if line.strip()))


def test_every_line_is_in_a_table_and_no_other():
    assert set(lines()) == {*COMMANDS, *LAUNCHES, *LEFT_OUT}


def test_what_a_reader_would_miss_is_found():
    assert len(lines()) > 15 and len(blocks("python")) == 2
    assert "esvit-fast pretrain --recipe NAME --help" in lines()  # broken over two lines of text


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder to work in, with ~/images: two classes in two splits; and a recipe small enough."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for kind in ("cats", "dogs"):
            folder = tmp_path / "images" / split / kind
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 256, (24, 20 + i, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    save_config(small(), tmp_path / "tiny.yaml")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(line: str) -> list[str]:
    return [os.path.expanduser(word) for word in shlex.split(line)]


@pytest.mark.slow
def test_commands(home, capsys):
    for said, line in COMMANDS.items():
        program, *arguments = words(line)
        assert program == "esvit-fast"
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        assert code == 0, f"{said}\n{out}{err}"
        assert out or err, said
    of_a_run = {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints", "model.safetensors", "report.html"}
    assert of_a_run <= {path.name for path in (home / "runs" / "a").iterdir()}
    assert {"profile.txt", "trace.json.gz"} <= {path.name for path in (home / "runs" / "b").iterdir()}
    assert (home / "preview.png").is_file()


@pytest.mark.slow
def test_launches(home):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for said, line in LAUNCHES.items():
        program, *arguments = words(line)
        assert program == "torchrun"
        command = [sys.executable, "-m", "torch.distributed.run", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{said}\n{done.stdout}{done.stderr}"
        assert "2 x cpu" in done.stderr and "done: " in done.stderr
    assert (home / "runs" / "a" / "model.safetensors").is_file()


@pytest.mark.parametrize("number", range(2))
def test_blocks_of_python(number, capsys, tmp_path):
    code = blocks("python")[number]
    for written, smaller in SMALLER:
        code = code.replace(written, smaller)
    (tmp_path / "block.py").write_text(code)
    names = runpy.run_path(str(tmp_path / "block.py"))
    if number == 0:
        assert names["loss"].isfinite() and names["view"].shape[0] == names["regions"].shape[0] == 2
    else:
        assert "attention" in capsys.readouterr().out
        assert not any("esvit_fast" in type(module).__module__ for module in names["model"].modules())


def test_smaller_settings_are_those_of_the_blocks():
    text = "\n".join(blocks("python"))
    assert all(written in text for written, _ in SMALLER)
    assert torch.get_num_threads() == 1
