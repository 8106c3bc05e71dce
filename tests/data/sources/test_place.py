"""Where the images of a specification are, from any folder."""

from pathlib import Path

import pytest

from esvit_fast.data import absolute
from esvit_fast.data.sources.files import expand


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("images", "{here}/images"),
        ("../images.zip", "{here}/../images.zip"),
        ("shards/{000..127}.tar", "{here}/shards/{{000..127}}.tar"),
        ("torchvision:CIFAR10@data", "torchvision:CIFAR10@{here}/data"),
        ("torchvision:CIFAR10", "torchvision:CIFAR10"),
        ("/a/b", "/a/b"),
        ("sample:50", "sample:50"),
        ("sample", "sample"),
        ("", ""),
        ("s3://bucket/images", "s3://bucket/images"),
    ],
)
def test_a_path_begins_at_the_root(spec, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute(spec) == found.format(here=tmp_path)
    assert absolute(absolute(spec)) == absolute(spec)


def test_home_is_a_place(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert absolute("~/images") == "/somewhere/images"


def test_a_pattern_is_the_same_in_a_folder_whose_name_looks_like_one(tmp_path, monkeypatch):
    folder = tmp_path / "a[1]*"
    folder.mkdir()
    (folder / "b.tar").touch()
    (folder / "c[2]").mkdir()
    monkeypatch.chdir(folder)
    assert expand(absolute("*.tar")) == [folder / "b.tar"]
    assert absolute("c[2]") == f"{folder}/c[2]" and Path(absolute("c[2]")).is_dir()
