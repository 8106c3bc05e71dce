"""Classes that are numbers, sparse or huge, and names."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from esvit_fast.data import fingerprint, open_source, open_splits
from esvit_fast.data.sources.labels import by_number, by_text

from ..stand_ins import pixels, write_images
from .test_sources import pack


def test_numbers_that_are_written():
    found = by_text(["10", "007", "", "9", "-1", "10"])
    assert list(found.classes) == ["7", "9", "10"] and found.labels.tolist() == [2, 0, -1, 1, -1, 2]
    assert found.marks.tolist() == [10, 7, -1, 9, -1, 10]
    huge = by_text(["5", str(10**30)])
    assert list(huge.classes) == ["5", str(10**30)] and huge.labels.tolist() == [0, 1]


def test_names():
    found = by_text(["b", "cafe\u0301", "", "caf\u00e9", "1"])
    assert list(found.classes) == ["1", "b", "caf\u00e9"] and found.labels.tolist() == [1, 2, -1, 2, 0]


def test_numbers_cost_what_occurs():
    values = np.array([10**15, -1, 3, 10**15])
    tracemalloc.start()
    found = by_number(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.labels.tolist() == [1, -1, 0, 1] and list(found.classes) == ["3", str(10**15)] and peak < 10**7


@pytest.mark.parametrize("kind", ["npz", "npy", "csv", "parquet", "tar"])
def test_huge_numbers_in_every_kind(tmp_path, kind):
    images, labels = np.stack([pixels(n) for n in range(3)]), [2**40, 7, 2**40]
    if kind == "npz":
        np.savez(tmp_path / "a.npz", images=images, labels=labels)
    elif kind == "npy":
        np.save(tmp_path / "a.npy", images), np.save(tmp_path / "a_labels.npy", labels)
    elif kind == "csv":
        write_images(tmp_path, [f"{n}.png" for n in range(3)])
        (tmp_path / "a.csv").write_text("".join(f"{n}.png,{label}\n" for n, label in enumerate(labels)))
    elif kind == "parquet":
        pytest.importorskip("pyarrow")
        from .test_parquet import write

        write(tmp_path / "a.parquet", range(3), labels, names=())
    else:
        from .test_shards import encoded, shard

        samples = [(f"{n}.png", encoded(n)) for n in range(3)]
        samples += [(f"{n}.cls", str(label).encode()) for n, label in enumerate(labels)]
        shard(tmp_path / "a.tar", dict(samples))
    source = open_source(str(tmp_path / f"a.{kind}"))
    assert source.classes == ("7", str(2**40)) and [source.label(i) for i in range(3)] == [1, 0, 1]


def test_splits_share_numbers_though_the_test_images_lack_classes(tmp_path):
    images = np.stack([pixels(n) for n in range(4)])
    keys = {"x_train": images, "y_train": [9, 4, 1, 4], "x_val": images[:2], "y_val": [4, 9]}
    np.savez(tmp_path / "a.npz", **keys)
    found = open_splits(str(tmp_path / "a.npz"))
    assert {source.classes for source in found.values()} == {("1", "4", "9")}
    assert [found["test"].label(i) for i in range(2)] == [1, 2]


def test_runs_that_began_with_the_numbers_as_they_were_given_go_on(tmp_path):
    write_images(tmp_path, ["a.png", "b.png"])
    (tmp_path / "list.csv").write_text("a.png,12\nb.png,3\n")
    import hashlib

    expected = hashlib.sha256(b"a.png\x0012\0b.png\x003\0").hexdigest()
    assert fingerprint(open_source(str(tmp_path / "list.csv")))["sha256"] == expected
    write_images(tmp_path / "set" / "Images", ["x/1.png", "y/2.png"])
    source = open_source(str(tmp_path / "set"))
    assert source.classes == ("x", "y")
    expected = hashlib.sha256(b"Images/x/1.png\x000\0Images/y/2.png\x000\0").hexdigest()  # one class, as it was
    assert fingerprint(source)["sha256"] == expected


@pytest.mark.parametrize("kind", ["folder", "zip", "csv"])
def test_a_split_without_labels_has_no_classes_though_another_has(tmp_path, kind):
    files = ["train/1.png", "train/2.png", "test/cat/3.png", "test/dog/4.png"]
    root = write_images(tmp_path / "set", files)
    spec = root
    if kind == "zip":
        spec = pack(root, tmp_path / "a.zip")
    elif kind == "csv":
        spec = root / "a.csv"
        spec.write_text(
            "path,label\n" + "".join(f"{file},{file.split('/')[1][:3] * ('test' in file)}\n" for file in files)
        )
    found = open_splits(str(spec))
    assert (found["train"].classes, found["test"].classes) == ((), ("cat", "dog"))
