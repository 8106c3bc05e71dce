"""Images in .parquet files, in the layout of Hugging Face."""

from __future__ import annotations

import json
import logging
import os
import pickle

import numpy as np
import pytest

from esvit_fast.data import CorruptImage, SourceError, fingerprint, open_source
from esvit_fast.data.sources import parquet as parquet_source

from ..stand_ins import encoded, pixels

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write(path, numbers, labels=None, form="struct", names=("cat", "dog")):
    """Rows that show pixels(n), in row groups of 3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [n if n is None else encoded(n) for n in numbers]
    if form == "struct":
        images = [{"bytes": image, "path": f"{n}.png"} for n, image in zip(numbers, images, strict=True)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()}) if form == "struct" else pa.binary()
    table = pa.table({"id": list(range(len(images))), "image": pa.array(images, kind)})
    if labels is not None:
        table = table.append_column("label", pa.array(labels))
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=3)
    return path


@pytest.mark.parametrize("form", ["struct", "bytes"])
def test_one_file(tmp_path, form):
    file = write(tmp_path / "a.parquet", range(8), [0, 1, None, 1, 0, 1, 0, -1], form)
    source = open_source(str(file))
    assert len(source) == 8 and source.classes == ("cat", "dog")
    assert [source.label(i) for i in range(8)] == [0, 1, -1, 1, 0, 1, 0, -1]
    for i in (7, 0, 3, 2, 6, 1):
        assert np.array_equal(source.image(i), pixels(i))
    assert source.path(4).endswith("a.parquet/4.png" if form == "struct" else "a.parquet/4")


@pytest.mark.parametrize("spec", ["", "*.parquet", "{a,b}.parquet"])
def test_several_files_after_pickling_and_forking(tmp_path, spec, monkeypatch):
    write(tmp_path / "a.parquet", range(4), ["elk", "ant", None, "elk"], names=())
    write(tmp_path / "b.parquet", range(4, 11), ["bat"] * 7, names=())
    monkeypatch.setattr(parquet_source, "CACHE", 0)
    source = open_source(str(tmp_path / spec))
    assert source.classes == ("ant", "bat", "elk") and [source.label(i) for i in range(5)] == [2, 0, -1, 2, 1]
    assert all(np.array_equal(source.image(i), pixels(i)) for i in (10, 0, 5, 3, 9, 4))
    assert len(source._kept.groups) == 1
    copy = pickle.loads(pickle.dumps(source))
    assert fingerprint(copy) == fingerprint(source)
    assert fingerprint(source)["shards"][1][:2] == ["b.parquet", 7]
    child = os.fork()
    if child == 0:
        os._exit(0 if all(np.array_equal(source.image(i), pixels(i)) for i in range(11)) else 1)
    assert all(np.array_equal(copy.image(i), pixels(i)) for i in range(11))
    assert os.waitpid(child, 0)[1] == 0


def test_row_groups_are_read_once_where_they_fit(tmp_path, monkeypatch):
    source, read, column = open_source(str(write(tmp_path / "a.parquet", range(9)))), [], parquet_source._column
    monkeypatch.setattr(parquet_source, "_column", lambda *args: read.append(args[1]) or column(*args))
    for i in (8, 0, 4, 1, 7, 3, 6):
        source.image(i)
    assert read == [2, 0, 1] and source.classes == () and source.label(0) == -1


def test_files_of_hugging_face_are_divided_by_name(tmp_path):
    write(tmp_path / "data" / "train-00000-of-00002.parquet", range(4), [0] * 4)
    write(tmp_path / "data" / "train-00001-of-00002.parquet", range(4), [1] * 4)
    write(tmp_path / "data" / "test-00000-of-00001.parquet", range(2), [-1] * 2)
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", range(3), [1] * 3)
    (tmp_path / "README.md").touch()
    assert len(open_source(str(tmp_path))) == 8 and len(open_source(str(tmp_path), "test")) == 3


def test_a_column_of_splits_divides(tmp_path):
    images = [encoded(n) for n in range(5)]
    columns = {"image": images, "label": [9, 4, 4, 9, 1], "split": ["train", "valid", "train", "train", "valid"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=2)
    train, test = (open_source(str(tmp_path / "a.parquet"), split) for split in ("train", "test"))
    assert [train.label(n) for n in range(3)] == [2, 1, 2] and [test.label(n) for n in range(2)] == [1, 0]
    assert train.classes == test.classes == ("1", "4", "9")
    for source, numbers in ((train, (0, 2, 3)), (test, (1, 4))):
        assert all(np.array_equal(source.image(n), pixels(number)) for n, number in enumerate(numbers))
        assert all(np.array_equal(pickle.loads(pickle.dumps(source)).image(n), source.image(n)) for n in range(2))


@pytest.mark.parametrize(
    "names", [("default/train/0000", "default/test/0000"), ("a-train-0", "a-valid-0"), ("Train/0", "Val/0")]
)
def test_splits_of_files_by_folder_and_name(tmp_path, names):
    write(tmp_path / f"{names[0]}.parquet", range(4), [5, 0, 1, 1], names=())
    write(tmp_path / f"{names[1]}.parquet", range(4, 6), [1, 0], names=())
    train, test = (open_source(str(tmp_path), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (4, 2) and train.classes == test.classes == ("0", "1", "5")
    assert np.array_equal(test.image(1), pixels(5))


def test_numbers_without_names(tmp_path):
    source = open_source(str(write(tmp_path / "a.parquet", range(2), [3, 0], names=())))
    assert source.classes == ("0", "3") and [source.label(i) for i in range(2)] == [1, 0]


def test_a_column_of_bytes_whose_name_says_struct(tmp_path):
    file = write(tmp_path / "a.parquet", range(4), form="bytes")
    pq.write_table(pq.read_table(file).rename_columns(["id", "image.bytes"]), file)
    assert np.array_equal(open_source(str(file)).image(3), pixels(3))


def test_a_row_without_bytes_is_corrupt(tmp_path):
    source = open_source(str(write(tmp_path / "a.parquet", [0, None, 2])))
    with pytest.raises(CorruptImage, match=r"None\.png: the file holds no bytes of it"):
        source.image(1)
    assert np.array_equal(source.image(2), pixels(2))


def test_a_damaged_row_group_is_a_corrupt_image(tmp_path):
    file = write(tmp_path / "a.parquet", range(9))
    source = open_source(str(file))
    data = bytearray(file.read_bytes())
    data[4:600] = bytes(596)
    file.write_bytes(data)
    with pytest.raises(CorruptImage, match=r"0\.png: its row group cannot be read"):
        source.image(0)


def test_damaged_metadata_cost_the_names_and_say_so(tmp_path, caplog):
    file = write(tmp_path / "a.parquet", range(2), [1, 0])
    pq.write_table(pq.read_table(file).replace_schema_metadata({"huggingface": '{"info'}), file)
    with caplog.at_level(logging.WARNING):
        assert open_source(str(file)).classes == ("0", "1")
    assert "its Hugging Face metadata is damaged: classes have no names" in caplog.text


def test_large_row_groups_are_warned_of(tmp_path, monkeypatch, caplog):
    file = str(write(tmp_path / "a.parquet", range(3)))
    monkeypatch.setattr(parquet_source, "LARGE", 1000)
    with caplog.at_level(logging.WARNING):
        open_source(file)
        assert not caplog.records  # all are kept
        monkeypatch.setattr(parquet_source, "CACHE", 2000)
        open_source(file)
    assert "each read as a whole for one image; `esvit-fast data pack` makes shards" in caplog.text


def test_strings_of_other_writers_are_labels(tmp_path):
    source = open_source(
        str(write(tmp_path / "a.parquet", range(2), pa.array(["b", "a"], pa.large_string()), names=()))
    )
    assert source.classes == ("a", "b") and [source.label(i) for i in range(2)] == [1, 0]


def test_labels_that_are_no_classes_are_left_out_with_a_word(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        source = open_source(str(write(tmp_path / "a.parquet", range(2), [[0, 1], [1]], names=())))
    assert source.classes == () and "its column label is list" in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: f.write_bytes(b"PAR1 and no more"), r"a\.parquet' cannot be read: .*; check it"),
        (lambda f: f.write_bytes(b""), r"a\.parquet' cannot be read: .*; check it"),
        (
            lambda f: pq.write_table(pa.table({"x": [1], "y": ["a"]}), f),
            r"has no column of encoded images .*only x, y;",
        ),
        (
            lambda f: write(f, range(3), [0, 2, 1]),
            r"has labels from 0 to 2 for 2 classes; they must be",
        ),
        (lambda f: write(f, range(3), [0, -2, 1]), r"has labels from -2 to 1 for 2 classes"),
        (
            lambda f: write(f, range(3), [0, 2, -7], names=()),
            r"has labels from -7 to 2; they must be numbers of classes from 0 on",
        ),
        (lambda f: write(f, []), r"a\.parquet' has no rows; leave it out"),
        (
            lambda f: write(write(f, range(2)).with_name("b.parquet"), range(2), form="bytes"),
            r"b\.parquet' has other columns for images or labels than 'a\.parquet'",
        ),
        (lambda f: write(f, range(2)).with_name("b.parquet").write_bytes(b""), r"b\.parquet' cannot be read"),
    ],
)
def test_bad_files(tmp_path, make, message):
    make(tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=message) as caught:
        open_source(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_without_pyarrow(tmp_path, monkeypatch):
    file = write(tmp_path / "a.parquet", range(2))
    monkeypatch.setattr(parquet_source, "pyarrow", None)
    with pytest.raises(SourceError, match="needs pyarrow, which is not installed: pip install pyarrow"):
        open_source(str(file))
