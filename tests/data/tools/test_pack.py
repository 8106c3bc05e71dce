"""Packing a source into shards: exactly its images, atomically, and again from where it was stopped."""

from __future__ import annotations

import io
import json
import resource
import tarfile

import numpy as np
import pytest
from PIL import Image

from esvit_fast.data import TooManyCorrupt, changes, fingerprint, open_source, open_splits
from esvit_fast.data.sources.shards import CARD
from esvit_fast.data.tools import pack as package
from esvit_fast.data.tools.pack import PackError, PackSettings, _names, pack

from ..stand_ins import ArraySource, pixels, write_images

NAMES = ["dog/b.png", "cat/a.b.png", "cat/a.jpg", "cat/a.png", "alone.png", "dog/deep/c.webp"]
TINY = PackSettings(shard_size=0.004)
"""Two or three of these images each."""


@pytest.fixture
def source(tmp_path):
    """A list: an order of its own, a name twice but for the extension, an image without a label."""
    write_images(tmp_path / "images", NAMES)
    lines = [f"{name}\t{name.split('/')[0] if '/' in name else ''}" for name in NAMES]
    (tmp_path / "images" / "list.tsv").write_text("\n".join(lines))
    return open_source(str(tmp_path / "images" / "list.tsv"))


def same(one, other):
    """Order, labels, classes and every pixel."""
    assert len(one) == len(other) and one.classes == other.classes
    for i in range(len(one)):
        assert one.label(i) == other.label(i) and np.array_equal(one.image(i), other.image(i)), one.path(i)


def content(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_packed_set_is_its_origin(source, tmp_path, workers):
    done = []
    card = pack(source, tmp_path / "out", TINY, workers=workers, progress=done.append)
    assert card["complete"] and card["images"] == 6 and card["skipped"] == [] and done == [1, 2, 3, 4, 5, 6]
    assert len(card["shards"]) > 2 and [s["end"] for s in card["shards"]][-1] == 6
    for spec in (
        str(tmp_path / "out"),
        f"{tmp_path}/out/*.tar",
        f"{tmp_path}/out/{{000000..{len(card['shards']) - 1:06d}}}.tar",
    ):
        packed = open_source(spec)
        same(source, packed)
    assert [packed.paths[i] for i in range(6)] == [
        *("dog/b.png", "cat/a_b.png", "cat/a.jpg"),
        *("cat/a_000000003.png", "alone.png", "dog/deep/c.webp"),
    ]
    for i, name in enumerate(NAMES):
        assert packed.read(i) == (tmp_path / "images" / name).read_bytes()


def test_workers_change_no_byte(source, tmp_path):
    for workers in (0, 1, 3):
        pack(source, tmp_path / str(workers), TINY, workers=workers)
    assert content(tmp_path / "0") == content(tmp_path / "1") == content(tmp_path / "3")


@pytest.mark.parametrize("form", ["folder", "flat", "sample", "array", "labels"])
def test_every_kind_of_source(tmp_path, form):
    if form == "sample":
        source = open_source("sample:30")
    elif form == "array":
        source = ArraySource(5)
    elif form == "labels":
        (tmp_path / "images").mkdir()
        np.savez(tmp_path / "a.npz", images=np.stack([pixels(n) for n in range(3)]), labels=[0, -1, 4])
        source = open_source(str(tmp_path / "a.npz"))
    else:
        write_images(tmp_path / "images", ["a.png", "b.png"] if form == "flat" else NAMES)
        source = open_source(str(tmp_path / "images"))
    pack(source, tmp_path / "out", TINY, workers=0)
    packed = open_source(str(tmp_path / "out"))
    same(source, packed)
    pack(packed, tmp_path / "again", TINY, workers=0)
    assert fingerprint(open_source(str(tmp_path / "again"))) == fingerprint(packed)


def test_larger_images_are_reduced_and_smaller_ones_keep_their_bytes(tmp_path):
    for name, (width, height) in {"wide.png": (300, 100), "tall.png": (80, 200), "small.png": (64, 90)}.items():
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels(1, height, width)).save(tmp_path / "images" / name)
    source = open_source(str(tmp_path / "images"))
    pack(source, tmp_path / "out", PackSettings(short_side=64, quality=90), workers=0)
    packed = open_source(str(tmp_path / "out"))
    assert [packed.image(i).shape for i in range(3)] == [(90, 64, 3), (160, 64, 3), (64, 192, 3)]
    assert packed.read(0) == source.read(0) and packed.paths[2].endswith("wide.jpg")
    expected = Image.fromarray(source.image(2)).resize((192, 64), Image.Resampling.BICUBIC)
    assert abs(packed.image(2).astype(int) - np.asarray(expected)).mean() < 3


def test_shards_are_plain_webdataset(source, tmp_path):
    pack(source, tmp_path / "out", PackSettings(), workers=0)
    with tarfile.open(tmp_path / "out" / "000000.tar") as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    assert list(members)[:4] == ["dog/b.png", "dog/b.cls", "cat/a_b.png", "cat/a_b.cls"]
    assert members["dog/b.cls"] == b"1" and "alone.cls" not in members
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(members["dog/b.png"]))), pixels(0))


def test_names_are_unique_visible_and_stay_in_the_folder():
    class Named:
        paths = (
            "/abs/a.png",
            "../up/./b.c.png",
            "3",
            "3.png",
            "",
            ".png",
            "~/.cache/d.png",
            "e_000000009",
            "e",
            "e.png",
        )

        def __len__(self):
            return len(self.paths)

    named = ["abs/a", "up/b_c", "3", "3_000000003", "000000004", "_png", "~/cache/d", "e_000000009", "e"]
    assert _names(Named()) == [*named, "e_000000009_000000009"]


def test_jpegs_with_others_behind_them_and_hidden_ones_are_found_again(tmp_path):
    write_images(tmp_path, [".cache/0.png"])
    image = Image.fromarray(pixels(1))
    image.save(tmp_path / "1.jpg", "MPO", save_all=True, append_images=[image])
    (tmp_path / "list.txt").write_text(".cache/0.png\n1.jpg\n")
    source = open_source(str(tmp_path / "list.txt"))
    pack(source, tmp_path / "out", TINY, workers=0)
    same(source, open_source(str(tmp_path / "out")))


def test_jpegs_above_pillows_own_limit(tmp_path, monkeypatch):
    pytest.importorskip("simplejpeg")
    Image.fromarray(pixels(1)).save(tmp_path / "1.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert pack(open_source(str(tmp_path)), tmp_path / "out", TINY, workers=0)["images"] == 1


def interrupted(out, source, after, monkeypatch, error=KeyboardInterrupt):
    """Pack until so many images have been added."""
    add, count = package._Shard.add, []

    def stop(self, *args):
        count.append(1)
        if len(count) > after:
            raise error
        add(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(package._Shard, "add", stop)
        with pytest.raises(error):
            pack(source, out, TINY, workers=0)


def test_interrupted_packing_goes_on_and_makes_the_same_bytes(source, tmp_path, monkeypatch):
    pack(source, tmp_path / "whole", TINY, workers=0)
    for after in range(6):
        out = tmp_path / f"after{after}"
        interrupted(out, source, after, monkeypatch)
        assert not list(out.glob(".tmp-*"))
        shards = len(list(out.glob("*.tar")))
        (out / ".tmp-000001.tar").write_bytes(b"of a process that was killed")
        if shards:
            with pytest.raises(ValueError, match="has not been packed to the end; give its"):
                open_source(str(out))
        pack(source, out, TINY, workers=0)
        assert content(out) == content(tmp_path / "whole")
        assert pack(source, out, TINY, workers=0)["complete"]


def test_a_full_disk_leaves_whole_shards_and_packing_goes_on(source, tmp_path):
    pack(source, tmp_path / "whole", PackSettings(shard_size=0.005), workers=0)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "whole").glob("*.tar"))]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(PackError, match="cannot be written: File too large after 0 shards; make room"):
            pack(source, tmp_path / "out", PackSettings(shard_size=0.005), workers=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(content(tmp_path / "out")) == [CARD] and min(sizes) > 2000
    pack(source, tmp_path / "out", PackSettings(shard_size=0.005), workers=0)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("writes", [2, 3, 4, 5])
def test_a_kill_between_shard_and_card(source, tmp_path, monkeypatch, writes):
    """The card is written empty, behind each of three shards, and when all is done."""
    assert len(pack(source, tmp_path / "whole", TINY, workers=0)["shards"]) == 3
    write, count = package._write_card, []

    def stop(*args):
        count.append(1)
        if len(count) == writes:
            raise KeyboardInterrupt
        write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(package, "_write_card", stop)
        with pytest.raises(KeyboardInterrupt):
            pack(source, tmp_path / "out", TINY, workers=0)
    assert len(list((tmp_path / "out").glob("*.tar"))) == min(3, writes - 1)
    pack(source, tmp_path / "out", TINY, workers=0)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_unreadable_images_are_left_out_and_listed(tmp_path, caplog):
    source = ArraySource(20, frozenset({3, 19}))
    card = pack(source, tmp_path / "out", TINY, workers=2, max_corrupt_share=0.1)
    assert card["images"] == 18 and card["complete"]
    assert card["skipped"] == [{"index": i, "path": f"{i}.png", "why": "is damaged"} for i in (3, 19)]
    assert caplog.text.count("unreadable image") == 2
    packed = open_source(str(tmp_path / "out"))
    assert len(packed) == 18 and np.array_equal(packed.image(3), pixels(4))
    assert json.loads((tmp_path / "out" / CARD).read_text()) == card


def test_too_many_unreadable_images_stop_it(tmp_path):
    with pytest.raises(TooManyCorrupt, match=r"max_corrupt_share=0\.05 is exceeded: 2 of 20 images cannot be read"):
        pack(ArraySource(20, frozenset({3, 9})), tmp_path / "out", TINY, workers=0, max_corrupt_share=0.05)
    assert not list((tmp_path / "out").glob(".tmp-*"))
    with pytest.raises(TooManyCorrupt, match="2 of 20"):
        pack(ArraySource(20, frozenset({3, 9})), tmp_path / "out", TINY, workers=0, max_corrupt_share=0.05)


def test_other_folders_and_other_settings_are_refused(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    (tmp_path / "out" / ".tmp-notes").touch()
    with pytest.raises(PackError, match=r"already holds '\.tmp-notes'; choose a new or empty folder"):
        pack(source, tmp_path / "out", TINY, workers=0)
    assert (tmp_path / "out" / ".tmp-notes").exists()
    with pytest.raises(PackError, match=r"cannot be used: (File exists|Not a directory); choose another folder"):
        pack(source, tmp_path / "out" / "thesis.tex", TINY, workers=0)
    pack(source, tmp_path / "new", TINY, workers=0)
    with pytest.raises(PackError, match=r"was begun with --shard-size 0\.004 --short-side 0 --quality 95"):
        pack(source, tmp_path / "new", PackSettings(), workers=0)
    with pytest.raises(PackError, match="was begun with other images: 6 images then, 5 now; the first that differs"):
        pack(ArraySource(5), tmp_path / "new", TINY, workers=0)


def test_splits(tmp_path):
    write_images(tmp_path / "two", ["train/a/1.png", "test/a/2.png"]), write_images(tmp_path / "one", ["train/a/1.png"])
    assert {name: len(source) for name, source in open_splits(str(tmp_path / "two")).items()} == {"train": 1, "test": 1}
    assert list(open_splits(str(tmp_path / "one"))) == ["train"]
    (tmp_path / "two" / "test" / "a" / "2.png").rename(tmp_path / "two" / "test" / "a" / "1.png")
    assert list(open_splits(str(tmp_path / "two"))) == ["train", "test"]  # by the same names inside
    assert list(open_splits(str(tmp_path / "two" / "train"))) == ["all"]


def test_a_resume_tells_which_shard_is_gone(source, tmp_path):
    pack(source, tmp_path / "out", TINY, workers=0)
    then = fingerprint(open_source(f"{tmp_path}/out/*.tar"))
    (tmp_path / "out" / "000001.tar").unlink()
    said = changes(then, fingerprint(open_source(f"{tmp_path}/out/*.tar")))
    assert "1 shard missing (000001.tar)" in said


def test_splits_of_which_one_has_no_labels(tmp_path):
    write_images(tmp_path / "set", ["train/cat/0.png", "train/dog/1.png", "test/2.png"])
    for split, source in open_splits(str(tmp_path / "set")).items():
        pack(source, tmp_path / "out" / split, TINY, workers=0)
    found = open_splits(str(tmp_path / "out"))
    assert (found["train"].classes, found["test"].classes) == (("cat", "dog"), ())
    assert [found["train"].label(n) for n in range(2)] == [0, 1] and len(found["test"]) == 1
