"""Lists: columns, quotes, splits, and what Windows writes."""

from __future__ import annotations

import pytest

from esvit_fast.data import SourceError, open_source, open_splits
from esvit_fast.data.sources.account import account_of

from ..stand_ins import write_images


def read(root, name, text, files=("0.png", "1.png", "2.png", "3.png")):
    """Classes by file of each split."""
    write_images(root, list(files))
    (root / name).write_bytes(text.encode())
    found = open_splits(str(root / name))
    return {
        split: {
            source.paths[n]: source.classes[source.label(n)] if source.label(n) >= 0 else "" for n in range(len(source))
        }
        for split, source in found.items()
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'path,label\n0.png,"dog, big"\n1.png,cat\n'),
        ("a.csv", '0.png,"dog, big"\n1.png,cat\n'),
        ("a.csv", "path;label\r\n0.png;dog, big\r\n1.png;cat\r\n"),
        ("a.csv", 'file_name,width,label\n0.png,32,"dog, big"\n1.png,32,cat\n'),
        ("a.csv", 'id,species,image_path\n7,"dog, big",0.png\n8,cat,1.png\n'),
        ("metadata.csv", 'file_name,text,label\n0.png,"two\nlines","dog, big"\n1.png,none,cat\n'),
        ("a.tsv", "0.png\tdog, big\n1.png\tcat\n"),
        ("a.txt", '0.png,"dog, big"\n1.png,cat\n'),
        ("a.csv", 'Photo,Breed\n0.png,"dog, big"\n1.png,cat\n'),
        ("a.csv", '\ufeffpath,label\r\n"0.png","dog, big"\r\n"1.png","cat"\r\n\r\n'),
    ],
)
def test_columns_and_quotes(tmp_path, name, text):
    assert read(tmp_path, name, text) == {"all": {"0.png": "dog, big", "1.png": "cat"}}


def test_what_windows_writes(tmp_path):
    files = ("img/a.png", "img/b.png")
    for name, text in (
        ("a.csv", "path,label\r\nimg\\a.png,cat\r\nimg\\b.png,dog\r\n"),
        ("a.txt", "img\\a.png cat\r\nimg\\b.png dog\r\n"),
    ):
        assert read(tmp_path, name, text, files) == {"all": {"img/a.png": "cat", "img/b.png": "dog"}}


@pytest.mark.parametrize("text", ["path,label,split\n{}", "label;split;path\n{}", "{}"])
def test_a_column_of_splits_is_honoured(tmp_path, text):
    rows = [("0.png", "cat", "train"), ("1.png", "dog", "TRAIN"), ("2.png", "cat", "valid"), ("3.png", "dog", "extra")]
    order = (1, 2, 0) if text.startswith("label") else (0, 1, 2)
    body = "".join((";" if ";" in text else ",").join(row[n] for n in order) + "\n" for row in rows)
    assert read(tmp_path, "a.csv", text.format(body)) == {
        "train": {"0.png": "cat", "1.png": "dog"},
        "test": {"2.png": "cat"},
    }
    assert account_of(open_source(str(tmp_path / "a.csv"))).left_out[0].first == ("3.png",)


@pytest.mark.parametrize("folder", ["train", "test", "val", "train/cats"])
def test_a_column_of_splits_is_overruled_by_no_folder(tmp_path, folder):
    files = [f"{folder}/{n}.png" for n in range(4)]
    text = "path,label,split\n" + "".join(f"{file},a,{'test' if n < 1 else 'train'}\n" for n, file in enumerate(files))
    found = read(tmp_path, "a.csv", text, files)
    assert {split: list(images) for split, images in found.items()} == {"train": files[1:], "test": files[:1]}


def test_columns_that_are_not_used_are_said(tmp_path):
    assert list(read(tmp_path, "a.csv", "path,label,split,text\n0.png,a,train,x\n1.png,b,train,y\n")) == ["all"]
    account = account_of(open_source(str(tmp_path / "a.csv")))
    assert "columns text not used" in account.layout and "column split divides nothing" in account.layout
    read(tmp_path, "b.csv", "path,label\n0.png,a\n,b\n")
    assert account_of(open_source(str(tmp_path / "b.csv"))).left_out[0].count == 1


def test_lists_without_labels_are_understood_as_folders_are(tmp_path):
    files = ("train/cat/1.png", "train/dog/2.png", "val/cat/3.png")
    assert read(tmp_path, "a.txt", "".join(f"{file}\n" for file in files), files) == {
        "train": {"train/cat/1.png": "cat", "train/dog/2.png": "dog"},
        "test": {"val/cat/3.png": "cat"},
    }
    labelled = "".join(f"{file},{n}\n" for n, file in enumerate(files))
    assert read(tmp_path, "a.csv", labelled, files)["test"] == {"val/cat/3.png": "2"}
    absolute = "".join(f"{tmp_path}/{file}\n" for file in files)
    assert [len(split) for split in read(tmp_path, "b.txt", absolute, files).values()] == [2, 1]


def test_quotes_that_do_not_end_are_an_error(tmp_path):
    with pytest.raises(SourceError, match=r"cannot be read at line \d+: .*; check its quotes"):
        read(tmp_path, "a.csv", 'path,label\n0.png,"cat\n1.png,dog\n')


def test_splits_that_nobody_knows_are_remarked(tmp_path):
    assert list(read(tmp_path, "a.csv", "path,label,fold\n0.png,a,1\n1.png,b,2\n")) == ["all"]
    assert account_of(open_source(str(tmp_path / "a.csv"))).remarks == ("column fold has '1' and 1 more, no splits",)
    text = "path,label,fold\n0.png,a,A\n1.png,b,Test\n2.png,b,\n"
    found = read(tmp_path, "c.csv", text)
    assert {split: list(images) for split, images in found.items()} == {"train": ["0.png", "2.png"], "test": ["1.png"]}
    assert account_of(open_source(str(tmp_path / "c.csv"))).remarks == (
        "column fold has no value for training: rows that are not test are taken for it",
    )
    assert list(read(tmp_path, "d.csv", "path,fold\n0.png,val\n1.png,test\n")) == ["all"]
    assert account_of(open_source(str(tmp_path / "d.csv"))).remarks == (
        "column fold has 'test' and 1 more, none of them for training",
    )
    usage = "file,Usage\n0.png,Training\n1.png,PublicTest\n2.png,PrivateTest\n"
    assert {split: list(images) for split, images in read(tmp_path, "b.csv", usage).items()} == {
        "train": ["0.png"],
        "test": ["1.png", "2.png"],
    }


@pytest.mark.parametrize("name", ["a.csv", "a.txt"])
def test_names_without_extensions_and_steps_in_paths(tmp_path, name):
    files = ("sub/0.png", "sub/1.png")
    write_images(tmp_path, list(files))
    for file in files:
        (tmp_path / file[:-4]).write_bytes((tmp_path / file).read_bytes())
    (tmp_path / "lists").mkdir()
    for text in ("./sub/0.png,a\n./sub/1.png,b\n", "sub/0,a\nsub/1,b\n"):
        assert len(read(tmp_path, name, text, ())["all"]) == 2
    (tmp_path / "lists" / name).write_text("../sub/0.png,a\n../sub/1.png,b\n")
    source = open_source(str(tmp_path / "lists" / name))
    assert source.classes == ("a", "b") and source.image(1).shape == (24, 32, 3)
