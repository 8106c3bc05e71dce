"""Without compiled kernels a command says so once, in a line, whatever it computes."""

import warnings

import pytest
import torch

from esvit_fast import ops
from esvit_fast.cli.warned import show_own_warnings_in_a_line
from esvit_fast.ops._core import native
from esvit_fast.ops._core import plan as _plan
from tests.training.runs import small

from .test_cli import call

REASON = "the library _C_cpu was not built; build it with a C++ compiler"


@pytest.fixture
def without_kernels(monkeypatch):
    monkeypatch.setattr(native, "CPU_MISSING", REASON)
    monkeypatch.setattr(_plan, "_warned", set())


def test_all_operators_warn_together(without_kernels):
    rows = torch.randn(1, 2, 3)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        ops.region_match(rows, rows)
        ops.linear(rows, torch.randn(4, 3))
        ops.region_match(rows, rows)
    assert [str(warning.message) for warning in seen] == [f"plain torch computes, which takes longer, as {REASON}"]


def test_a_command_says_it_in_one_line(capsys, tmp_path, without_kernels):
    from esvit_fast.config import save_config

    save_config(small(epochs=0.5), tmp_path / "recipe.yaml")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code, _, err = call(capsys, "pretrain", "--recipe", tmp_path / "recipe.yaml", "--out", tmp_path / "run")
    assert code == 0
    lines = [line for line in err.splitlines() if "plain torch" in line]
    assert lines == [f"esvit-fast: warning: plain torch computes, which takes longer, as {REASON}"]
    assert "UserWarning" not in err and "BackendWarning" not in err


def test_doctor_tells_it_of_every_operator(capsys, without_kernels):
    code, out, _ = call(capsys, "doctor")
    assert code == 0 and out.count(REASON) >= 6


def test_only_the_first_rank_speaks_and_libraries_keep_their_form(capsys, monkeypatch):
    theirs = []
    for rank, said in (("0", "esvit-fast: warning: ours\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *_: theirs.append(str(message))
            show_own_warnings_in_a_line()
            warnings.warn("ours", _plan.BackendWarning, stacklevel=1)
            warnings.warn("theirs", FutureWarning, stacklevel=1)
        assert capsys.readouterr().err == said
    assert theirs == ["theirs", "theirs"]
