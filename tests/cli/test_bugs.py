"""How commands end by an error: what a user can mend is one line and exit code 2, a bug one line and a traceback."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from esvit_fast.cli import bugs
from esvit_fast.config import ConfigError, save_config
from esvit_fast.errors import UserError
from esvit_fast.evaluation import bench
from esvit_fast.ops import BackendError
from esvit_fast.training import Trainer
from esvit_fast.training.step.trainer import NotFinite
from tests.training.runs import small, start

from .calls import call, fails

ZIP = "ValueError: zip() argument 2 is longer than argument 1"
IS_A_BUG = "this is a bug in esvit_fast or in what it uses, its traceback is"


def uneven(*_, **__):
    return list(zip([1], [1, 2], strict=True))


def shapes(*_):
    return torch.zeros(2) @ torch.zeros(3)


def not_json(*_):
    return json.loads("{")


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The system's folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def recipe(tmp_path):
    save_config(small(epochs=0.5), tmp_path / "recipe.yaml")
    return tmp_path / "recipe.yaml"


def buggy(capsys, *arguments):
    """The line and the traceback's place of a command that must end by a bug."""
    code, _, err = call(capsys, *arguments)
    (line,) = [line for line in err.splitlines() if line.startswith("esvit-fast")]
    assert code == 1 and "Traceback" not in err
    found = re.fullmatch(rf"esvit-fast: error: (.*); {IS_A_BUG} in '(.*)'", line)
    return found[1], Path(found[2])


@pytest.mark.parametrize(
    ("bug", "said"),
    [
        (uneven, ZIP),
        (shapes, "RuntimeError: inconsistent tensor size"),
        (not_json, "JSONDecodeError: Expecting property name"),
    ],
)
def test_a_bug_in_training_is_one_line_and_a_traceback_in_the_run(capsys, monkeypatch, tmp_path, recipe, bug, said):
    monkeypatch.setattr(Trainer, "train_step", bug)
    run = tmp_path / "run"
    told, kept = buggy(capsys, "pretrain", "--recipe", recipe, "--out", run)
    assert told.startswith(said) and kept == run / "traceback.txt"
    text = kept.read_text()
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d, version ", text)
    assert f": esvit-fast pretrain --recipe {recipe} --out {run}\nTraceback (most recent call last):\n" in text
    assert f"in {bug.__name__}\n" in text and "in _run\n" in text and told in text
    monkeypatch.setattr(Trainer, "train_step", uneven)
    assert buggy(capsys, "resume", run) == (ZIP, kept)
    assert kept.read_text().startswith(text), "it is kept beside the first"
    assert kept.read_text().count("Traceback (most") == 2 and ": esvit-fast resume " in kept.read_text()


def test_a_bug_before_a_run_begins_is_kept_in_its_folder_too(capsys, monkeypatch, tmp_path, recipe):
    monkeypatch.setattr("esvit_fast.training.run.open_source", uneven)
    assert buggy(capsys, "pretrain", "--recipe", recipe, "--out", tmp_path / "a" / "run") == (
        ZIP,
        tmp_path / "a" / "run" / "traceback.txt",
    )
    monkeypatch.undo()
    assert call(capsys, "pretrain", "--recipe", recipe, "--out", tmp_path / "a" / "run")[0] == 0


@pytest.mark.parametrize("command", [("eval", "knn"), ("report",)])
def test_a_bug_in_evaluation_is_kept_in_the_run(capsys, monkeypatch, tmp_path, command):
    start(tmp_path / "run", small(epochs=0.5))
    monkeypatch.setattr(bench, "extract_features", uneven)
    assert buggy(capsys, *command, tmp_path / "run") == (ZIP, tmp_path / "run" / "traceback.txt")


def test_without_a_run_it_is_kept_in_a_temporary_file(capsys, monkeypatch, temporary, tmp_path, recipe):
    monkeypatch.setattr("esvit_fast.cli.listing.recipe_names", uneven)
    told, kept = buggy(capsys, "recipes")
    assert told == ZIP and kept.parent == temporary and "in uneven\n" in kept.read_text()
    (tmp_path / "file").touch()
    monkeypatch.setattr("esvit_fast.training.run.check_folder", uneven)
    _, other = buggy(capsys, "pretrain", "--recipe", recipe, "--out", tmp_path / "file")
    assert other.parent == temporary and other != kept
    assert buggy(capsys, "recipes")[1].parent == temporary, "the folder was that of another command"


def test_a_traceback_that_no_file_takes_is_printed(capsys, monkeypatch, temporary):
    monkeypatch.setattr("esvit_fast.cli.listing.recipe_names", uneven)
    temporary.rmdir()
    code, _, err = call(capsys, "recipes")
    assert code == 1 and "in uneven\n" in err
    assert err.splitlines()[-1] == f"esvit-fast: error: {ZIP}; {IS_A_BUG} above, as no file could be written"


def test_each_rank_keeps_its_own(capsys, monkeypatch, tmp_path, recipe):
    bugs.belongs_to(tmp_path)
    for name, value in {"WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("esvit_fast.cli.listing.recipe_names", lambda: bugs.belongs_to(tmp_path) or uneven())
    said = []
    monkeypatch.setattr("esvit_fast.parallel.ranks.is_first_to_say", lambda *words: said.append(words) or True)
    assert buggy(capsys, "recipes") == (ZIP, tmp_path / "traceback.rank1.txt")
    assert said == [(ZIP, False)], "which is the same on all ranks"
    assert ", rank 1: esvit-fast recipes\n" in (tmp_path / "traceback.rank1.txt").read_text()


def test_a_bug_in_a_worker_is_told_by_its_last_line():
    said = "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File …\n"
    assert bugs.about(ValueError(f"{said}{ZIP}\n")) == ZIP
    assert bugs.about(KeyError()) == "KeyError" and bugs.about(RuntimeError("a\nb")) == "RuntimeError: a"
    assert len(bugs.about(RuntimeError("x" * 10_000))) < 400


def failing(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr("esvit_fast.cli.listing.recipe_names", fail)


@pytest.mark.parametrize("kind", [UserError, ConfigError, BackendError, NotFinite])
def test_what_a_user_can_mend_is_one_line_wherever_it_is_raised(capsys, monkeypatch, temporary, kind):
    failing(monkeypatch, kind("k=3 is odd; pass 4"))
    assert fails(capsys, "recipes") == "esvit-fast: error: k=3 is odd; pass 4\n"
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No such file or directory", "a.txt"), "'a.txt': No such file or directory; check that"),
        (MemoryError(), r"memory is full (MemoryError); smaller micro-batches"),
        (
            torch.OutOfMemoryError("CUDA out of memory.\nmore"),
            "memory is full (OutOfMemoryError: CUDA out of memory.",
        ),
        (
            RuntimeError('torch_call_dispatcher("aten::new_empty", "", …) API call failed'),
            "memory is full (RuntimeError",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"), "memory is full (RuntimeError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_others_raise_and_a_user_can_mend(capsys, monkeypatch, error, said):
    failing(monkeypatch, error)
    assert fails(capsys, "recipes").startswith(f"esvit-fast: error: {said}")


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, TypeError, KeyError, AssertionError, OSError, ImportError])
def test_all_else_is_a_bug(capsys, monkeypatch, temporary, kind):
    failing(monkeypatch, kind("x"))
    told, kept = buggy(capsys, "recipes")
    assert told.startswith(f"{kind.__name__}: ") and kept.parent == temporary


def test_who_stops_a_command_is_told_nothing(capsys, monkeypatch, temporary):
    failing(monkeypatch, KeyboardInterrupt())
    assert call(capsys, "recipes") == (130, "", "")
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_a_bug_of_ranks_is_said_once_and_kept_by_each(tmp_path, recipe):
    (tmp_path / "buggy.py").write_text(
        "from esvit_fast.cli.main import main\n"
        "from esvit_fast.training import Trainer\n"
        "Trainer.train_step = lambda *_: list(zip([1], [1, 2], strict=True))\n"
        "raise SystemExit(main())\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, tmp_path / "buggy.py", "pretrain", "--recipe", recipe, "--out", tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("esvit-fast")]
    assert done.returncode == 1 and f"{ZIP}; {IS_A_BUG} in '{tmp_path / 'run'}/traceback.rank" in said
    kept = [tmp_path / "run" / f"traceback.rank{rank}.txt" for rank in (0, 1)]
    assert any(path.exists() and f", rank {rank}: " in path.read_text() for rank, path in enumerate(kept))
