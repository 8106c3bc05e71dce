"""A source is one file outside of the package: it is checked, trained on, resumed and evaluated."""

from dataclasses import replace
from pathlib import Path

import pytest

from esvit_fast.config import load_config
from esvit_fast.data import open_source, register_source
from esvit_fast.plugins import VARIABLE

from ..cli.calls import call
from ..training.runs import go_on, small, start


@pytest.fixture(autouse=True)
def plugins(monkeypatch):
    monkeypatch.setenv(VARIABLE, str(Path(__file__).parent / "circles.py"))


def test_it_is_checked_trained_on_and_evaluated(tmp_path, capsys):
    assert len(open_source("circles:40")) == 40 and len(open_source("circles:40", "test")) == 20
    code, out, _ = call(capsys, "data", "check", "circles:40")
    assert "images       40, " in out and "images       20, " in out
    config = small(epochs=1)
    start(tmp_path / "run", replace(config, data=replace(config.data, source="circles:50", workers=2)))
    assert load_config(tmp_path / "run" / "config.yaml").data.source == "circles:50"
    assert go_on(tmp_path / "run").step == 6
    code, out, err = call(capsys, "eval", "knn", tmp_path / "run")
    assert code == 0 and "20" in out, err


def test_one_name_is_given():
    with pytest.raises(ValueError, match="scheme='' and suffix='': one of them must be given"):
        register_source()
