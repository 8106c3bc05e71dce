"""A run on shards is the run on their origin, and knows when they have changed."""

import shutil

import pytest
import torch

from esvit_fast.data import SourceError, open_source
from esvit_fast.data.tools.pack import PackSettings, pack
from esvit_fast.runs.checkpoint import CheckpointError, load_latest

from .runs import go_on, small, start, trained_weights, with_data


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The drawn images of the small run, in seven shards."""
    out = tmp_path_factory.mktemp("shards") / "set"
    card = pack(open_source("sample:50"), out, PackSettings(shard_size=0.03), workers=0)
    assert len(card["shards"]) == 7
    return out


@pytest.fixture(scope="module")
def finished(shards, tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "shards"
    start(run, with_data(small(epochs=1), source=f"{shards}/*.tar"))
    return run


def test_it_trains_the_same_weights_bit_for_bit(finished, tmp_path):
    start(tmp_path / "origin", small(epochs=1))
    one, other = (trained_weights(run) for run in (finished, tmp_path / "origin"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def changed(finished, shards, tmp_path):
    """A copy of the set and of the run, which may be spoilt."""
    shutil.copytree(shards, tmp_path / "set")
    shutil.copytree(finished, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(shards), str(tmp_path / "set")))
    return tmp_path


def test_moved_shards_are_the_same(changed):
    assert go_on(changed / "run").step == 6


def test_what_is_left_out_is_said_once(changed, caplog):
    (changed / "set" / "notes.txt").write_text("x")
    config = changed / "run" / "config.yaml"
    config.write_text(config.read_text().replace("/*.tar", ""))
    go_on(changed / "run")
    said = [record.getMessage() for record in caplog.records if record.name == "esvit_fast.training.run"]
    assert len(said) == 1 and "1 left out: no images by their names (notes.txt)" in said[0]


def test_a_missing_shard_is_told(changed):
    (changed / "set" / "000003.tar").unlink()
    with pytest.raises(
        CheckpointError, match=r"saw other images .* has now: 50 images then, 4\d now; 1 shard missing"
    ) as said:
        go_on(changed / "run")
    assert "(000003.tar); resume with the data that it began with, and if the others are test images" in str(said.value)
    assert "\n" not in str(said.value)
    config = changed / "run" / "config.yaml"
    config.write_text(config.read_text().replace("/*.tar", ""))
    with pytest.raises(SourceError, match=r"000003\.tar is missing, says shards\.json; copy or pack the set again"):
        go_on(changed / "run")


def test_a_shard_that_ends_early_is_named(changed):
    shard = changed / "set" / "000003.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(SourceError, match=r"shard '.*000003\.tar' ends early; fetch or pack it again"):
        go_on(changed / "run")


def test_checkpoints_stay_small(finished):
    assert len(str(load_latest(finished / "checkpoints").meta["data"])) < 1000
