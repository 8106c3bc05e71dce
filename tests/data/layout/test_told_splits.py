"""Splits that names of shards or columns of tables tell: folders inside do not overrule them."""

from __future__ import annotations

import pytest

from esvit_fast.data import open_source, open_splits
from esvit_fast.data.sources.account import account_of

from ..sources.test_shards import shard
from ..stand_ins import encoded


def images(spec):
    """The names of the images of each split."""
    return {split: list(source.paths) for split, source in open_splits(str(spec)).items()}


@pytest.mark.parametrize("inside", [("train", "train"), ("val", "val"), ("train", "val"), ("val", "train")])
def test_members_of_shards_do_not_overrule_their_names(tmp_path, inside):
    for name, folder in zip(("train", "test"), inside, strict=True):
        shard(tmp_path / f"{name}-0.tar", {f"{folder}/{name}{n}.png": encoded(n) for n in range(2)})
    assert images(tmp_path) == {
        name: [f"{folder}/{name}{n}.png" for n in range(2)]
        for name, folder in zip(("train", "test"), inside, strict=True)
    }


@pytest.mark.parametrize("folder", ["train", "test", "val"])
def test_paths_of_rows_do_not_overrule_their_column(tmp_path, folder):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"bytes": encoded(n), "path": f"{folder}/{n}.png"} for n in range(4)]
    pq.write_table(pa.table({"image": rows, "split": ["train", "test", "train", "train"]}), tmp_path / "a.parquet")
    truth = {"train": [f"{folder}/{n}.png" for n in (0, 2, 3)], "test": [f"{folder}/1.png"]}
    assert images(tmp_path / "a.parquet") == truth
    pq.write_table(pa.table({"image": rows, "split": ["A", "test", "B", None]}), tmp_path / "a.parquet")
    assert images(tmp_path / "a.parquet") == truth
    (remark,) = account_of(open_source(str(tmp_path / "a.parquet"))).remarks
    assert remark == "column split has no value for training: rows that are not test are taken for it"
