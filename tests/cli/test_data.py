"""`esvit-fast data`: its three commands, their exit codes and the lines that a mistake gives."""

import json

import numpy as np
import pytest
from PIL import Image

from esvit_fast.data import open_source
from tests.data.stand_ins import write_images

from .test_cli import call, fails


@pytest.fixture
def folder(tmp_path):
    names = [f"{split}/{c}/{n}.png" for split, count in (("train", 3), ("test", 2)) for c in "ab" for n in range(count)]
    return write_images(tmp_path / "images", names)


def joined(text):
    """A table's text, whatever the width of its lines."""
    return "".join(text.split())


@pytest.mark.parametrize("what", ["", "check", "pack", "preview"])
def test_help(capsys, what):
    code, out, _ = call(capsys, "data", *([what] if what else []), "--help")
    assert code == 0 and f"usage: esvit-fast data {what}".strip() in out
    assert call(capsys, "data")[0] == 2


def test_check_of_both_splits(capsys, folder):
    (folder / "test" / "b" / "again.png").write_bytes((folder / "train" / "a" / "0.png").read_bytes())
    code, out, _ = call(capsys, "data", "check", folder, "--workers", "0")
    assert code == 0
    assert f"{folder},train" in joined(out) and "2, 3 images each" in out and "32 px" in out
    assert "1testimagesarecopiesoftrainingimages:accuracyisflattered" in joined(out)
    code, out, _ = call(capsys, "data", "check", folder, "--workers", "0", "--json")
    found = json.loads(out)
    assert found["verdict"] == "usable" and found["splits"]["test"]["images"] == 5
    assert found["splits"]["train"]["verdict"] == "good"


def test_check_says_what_was_understood_and_left_out(capsys, folder):
    inside = folder.rename(folder.parent / "Images")
    (inside / "notes.txt").write_text("x"), (inside / "train" / "a" / "gone.png").symlink_to("nothing")
    (inside / "masks").mkdir(), (inside / "masks" / "0.png").write_bytes((inside / "train/a/0.png").read_bytes())
    code, out, _ = call(capsys, "data", "check", inside, "--workers", "0", "--json")
    found = json.loads(out)
    assert code == 0 and found["verdict"] == "usable"
    assert found["layout"] == "train: 6 images, test: 4 images, 2 classes by folders"
    assert found["left_out"] == [
        {"why": "belong to the images beside them", "count": 1, "first": ["masks/0.png"]},
        {"why": "links that lead nowhere", "count": 1, "first": ["train/a/gone.png"]},
        {"why": "no images by their names", "count": 1, "first": ["notes.txt"]},
    ]
    remark = "1 left out: links that lead nowhere (train/a/gone.png)"
    assert all(remark in report["remarks"] and report["verdict"] == "usable" for report in found["splits"].values())
    _, out, _ = call(capsys, "data", "check", inside, "--workers", "0")
    said = joined(out)
    assert said.count(joined(remark)) == 1 and "train:6images,test:4images,2classesbyfolders" in said


def test_a_name_that_means_two_things(capsys, tmp_path, monkeypatch, caplog):
    write_images(tmp_path / "sample", ["a.png"])
    monkeypatch.chdir(tmp_path)
    assert len(open_source("sample:20")) == 20 and not caplog.records
    assert len(open_source("sample")) == 8000
    assert "is the drawn set, and not the folder sample/ here; pass ./sample for that" in caplog.text
    assert len(open_source("./sample")) == 1


def test_brackets_of_a_source_are_shown(capsys, folder):
    inside = folder.rename(folder.parent / "[a-c]")
    code, out, _ = call(capsys, "data", "check", inside, "--workers", "0")
    assert code == 0 and "[a-c],train" in joined(out)


def test_check_names_what_cannot_be_read_and_fails(capsys, folder):
    for n in range(12):
        (folder / "train" / "b" / f"bad[{n}].png").write_bytes(b"x")
    code, out, _ = call(capsys, "data", "check", folder, "--workers", "0")
    said = joined(out)
    assert code == 1 and "bad[0].png:isnoimageofaknownformat" in said and "and2more;--jsonlistsall" in said
    assert "unusable-12of18imagescannotberead(66.67%);arunwithdata.max_corrupt_share=0.01stops" in said
    assert call(capsys, "data", "check", folder, "--workers", "0", "--max-corrupt-share", "0.9")[0] == 0


def test_pack_and_its_set(capsys, folder, tmp_path):
    out = tmp_path / "shards"
    code, said, _ = call(capsys, "data", "pack", folder, out, "--workers", "0", "--shard-size", "0.004")
    assert code == 0 and "train: 6 images in" in said and "test: 4 images in" in said
    for split in ("train", "test"):
        one, other = (open_source(str(spec), split) for spec in (folder, out))
        assert len(one) == len(other) and one.classes == other.classes
        assert all(np.array_equal(one.image(i), other.image(i)) for i in range(len(one)))
        assert [one.label(i) for i in range(len(one))] == [other.label(i) for i in range(len(one))]
    assert call(capsys, "data", "pack", folder, out, "--workers", "0", "--shard-size", "0.004")[1] == said
    reduced = tmp_path / "reduced"
    assert (
        call(capsys, "data", "pack", folder, reduced, "--workers", "0", "--short-side", "12", "--quality", "80")[0] == 0
    )
    assert open_source(str(reduced)).image(0).shape == (12, 16, 3)
    message = fails(capsys, "data", "pack", folder, reduced, "--short-side", "13")
    assert "was begun with --shard-size 256 --short-side 12 --quality 80" in message


def test_pack_skips_what_it_cannot_read(capsys, tmp_path):
    root = write_images(tmp_path / "images", [f"{n}.png" for n in range(4)])
    (root / "2.png").write_bytes(b"")
    code, said, _ = call(capsys, "data", "pack", root, tmp_path / "out", "--workers", "0")
    assert code == 0 and "3 images in 1 shard" in said and "; 1 could not be read: see shards.json" in said
    (root / "3.png").write_bytes(b"")
    assert "2 of 4 images cannot be read" in fails(capsys, "data", "pack", root, tmp_path / "b", "--workers", "0")


def test_preview(capsys, folder, tmp_path):
    picture = tmp_path / "a.png"
    code, out, _ = call(
        *(capsys, "data", "preview", folder, "--recipe", "sample", "--out", picture, "--count", "2"),
        *("--data.crops.global-size", "20", "--train.seed", "5"),
    )
    assert code == 0
    with Image.open(picture) as image:
        assert f"{image.width} x {image.height} pixels" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "nowhere"), "data.source='nowhere' does not exist; pass a folder"),
        (("check", "sample:5", "--workers", "-3"), "data.workers=-3 must be at least -1"),
        (("check", "sample:5", "--max-corrupt-share", "2"), "data.max_corrupt_share=2.0 must lie between 0 and 1"),
        (("pack", "sample:5", "{}/out", "--shard-size", "0"), "--shard-size 0 must be greater than 0"),
        (("pack", "sample:5", "{}/out", "--quality", "101"), "--quality 101 must be between 1 and 100"),
        (("pack", "sample:5", "{}/out", "--short-side", "-1"), "--short-side -1 must be 0 or more"),
        (("pack", "sample:5", "/proc/out"), "out='/proc/out/train' cannot be used: "),
        (("preview", "sample:5", "--recipe", "swin_tony"), "recipe='swin_tony' is neither a file nor a recipe"),
        (("preview", "sample:5", "--count", "0"), "--count 0 must be 1 or more"),
        (("preview", "sample:5", "--recipe", "sample", "--out", "{}/a.xyz"), "a.xyz must end in .png, .jpg or .webp"),
        (
            ("preview", "sample:5", "--recipe", "sample", "--out", "{}/no/a.png"),
            "/no/a.png': No such file or directory; check that",
        ),
    ],
)
def test_mistakes_are_one_line(capsys, tmp_path, arguments, message):
    assert message in fails(capsys, "data", *(argument.format(tmp_path) for argument in arguments))
