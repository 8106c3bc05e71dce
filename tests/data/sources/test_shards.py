"""Many .tar files as one set, in the convention of WebDataset."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import pickle
import tarfile
from unittest.mock import Mock

import numpy as np
import pytest

from esvit_fast.data import CorruptImage, SourceError, changes, fingerprint, open_source
from esvit_fast.data.sources import shard_index
from esvit_fast.data.sources.files import expand
from esvit_fast.data.sources.shards import CARD

from ..stand_ins import encoded, pixels


def shard(path, samples):
    """Write {name: bytes} as a .tar, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as out:
        for name, data in samples.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def numbered(folder, shards=3, each=4, name="{:03d}.tar", label=lambda n: str(n % 2)):
    """Shards whose sample n shows pixels(n)."""
    for s in range(shards):
        samples = {}
        for n in range(s * each, (s + 1) * each):
            samples |= {f"{n:04d}.png": encoded(n), f"{n:04d}.cls": label(n).encode()}
        shard(folder / name.format(s), samples)
    return folder


@pytest.fixture(params=["*.tar", "{000..002}.tar", "", "list.txt", "00{0,1,2}.tar"])
def spec(request, tmp_path):
    """Every way to name three shards."""
    folder = numbered(tmp_path / "shards")
    (folder / "list.txt").write_text("000.tar\n001.tar\n002.tar\n")
    return str(folder / request.param) if request.param else str(folder)


def test_shards_are_one_source_in_their_order(spec):
    source = open_source(spec)
    assert len(source) == 12 and source.classes == ("0", "1")
    assert [source.label(i) for i in range(4)] == [0, 1, 0, 1]
    assert all(np.array_equal(source.image(i), pixels(i)) for i in range(12))
    assert source.path(5).endswith("shards/001.tar/0005.png")
    assert len(open_source(spec, "test")) == 12


def test_after_pickling_and_forking_and_with_few_files_open(spec, monkeypatch):
    monkeypatch.setattr("esvit_fast.data.sources.files.OPEN_FILES", 1)
    source = open_source(spec)
    order = [0, 11, 5, 1, 10, 6]
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    expected = [source.image(i) for i in order]
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before + 1
    copy = pickle.loads(pickle.dumps(source))
    assert all(np.array_equal(copy.image(i), image) for i, image in zip(order, expected, strict=True))
    assert fingerprint(copy) == fingerprint(source)
    child = os.fork()
    if child == 0:
        os._exit(0 if all(np.array_equal(source.image(i), pixels(i)) for i in reversed(order)) else 1)
    assert all(np.array_equal(source.image(i), pixels(i)) for i in order)
    assert os.waitpid(child, 0)[1] == 0


def test_labels_of_names_of_json_of_folders_and_none(tmp_path):
    image = encoded(0)
    source = open_source(str(numbered(tmp_path / "names", label=lambda n: ["elk", "dog", "ant"][n % 3])))
    assert source.classes == ("ant", "dog", "elk") and [source.label(i) for i in range(3)] == [2, 1, 0]
    shard(tmp_path / "json" / "0.tar", {"a.json": b'{"label": 3}', "a.png": image, "b.png": image, "b.json": b"[1]"})
    source = open_source(str(tmp_path / "json"))
    assert source.classes == ("3",) and [source.label(i) for i in range(2)] == [0, -1]
    shard(tmp_path / "folders" / "0.tar", {"dog/a.png": image, "cat/b.left.png": image, "c.png": image})
    source = open_source(str(tmp_path / "folders"))
    assert source.classes == ("cat", "dog") and [source.label(i) for i in range(3)] == [1, 0, -1]
    shard(tmp_path / "several" / "0.tar", {"a.left.png": image, "a.right.png": image, "a.cls": b"1\n", "x.txt": b""})
    source = open_source(str(tmp_path / "several"))  # one image a sample
    assert source.classes == ("1",) and list(source.paths) == ["a.left.png"]
    shard(tmp_path / "none.tar", {"a.png": image, "b.cls": b"2"})
    assert open_source(str(tmp_path / "none.tar")).label(0) == -1


def test_one_tar_has_labels_of_samples_too_and_the_order_of_names(tmp_path):
    file = shard(tmp_path / "one.tar", {"b.png": encoded(1), "b.cls": b"7", "a.png": encoded(0), "a.cls": b"2"})
    source = open_source(str(file))
    assert source.classes == ("2", "7") and [source.label(i) for i in range(2)] == [0, 1]
    assert np.array_equal(source.image(1), pixels(1))


def test_splits_by_folder_and_by_name(tmp_path):
    numbered(tmp_path / "folders" / "train"), numbered(tmp_path / "folders" / "val", shards=1)
    for folder in (tmp_path / "folders", numbered(tmp_path / "names", name="train-{:03d}.tar")):
        numbered(tmp_path / "names", shards=1, name="val_{:03d}.tar")
        assert len(open_source(str(folder))) == 12 and len(open_source(str(folder), "test")) == 4
    pattern = str(tmp_path / "names" / "train-*.tar")
    assert len(open_source(pattern, "test")) == len(open_source(pattern)) == 12
    with pytest.raises(SourceError, match="split='dev' must be one of train, test"):
        open_source(pattern, "dev")


def test_a_test_set_with_labels_is_preferred(tmp_path):
    numbered(tmp_path, name="train-{}.tar"), numbered(tmp_path, shards=1, name="test-{}.tar", label=lambda n: "-1")
    numbered(tmp_path, shards=2, name="validation-{}.tar")
    assert len(open_source(str(tmp_path), "test")) == 8


def test_links_to_shards_and_their_folders_are_followed_but_not_in_circles(tmp_path):
    numbered(tmp_path / "disk" / "0"), numbered(tmp_path / "disk" / "1", shards=1)
    root = numbered(tmp_path / "set" / "a", shards=1, each=1).parent
    (root / "b").symlink_to(tmp_path / "disk" / "0")
    (root / "c.tar").symlink_to(tmp_path / "disk" / "1" / "000.tar")
    (root / "b" / "back").symlink_to(root)
    (root / ".hidden").symlink_to(tmp_path / "disk")
    source = open_source(str(root))
    assert len(source) == 1 + 12 + 4
    shards = [source.path(i).removeprefix(f"{root}/").rpartition("/")[0] for i in (0, 1, 12, 13)]
    assert shards == ["a/000.tar", "b/000.tar", "b/002.tar", "c.tar"]
    assert list(open_source(f"{root}/**/*.tar").files.paths) == source.files.paths


def test_an_image_folder_with_a_tar_in_it_is_an_image_folder(tmp_path):
    numbered(tmp_path)
    (tmp_path / "cat").mkdir()
    for n in range(300):
        (tmp_path / "cat" / f"{n}.png").write_bytes(encoded(0))
    assert len(open_source(str(tmp_path))) == 300
    (tmp_path / "cat" / "0.png").unlink()
    with pytest.raises(SourceError, match=r"holds 299 images, .* and 3 shards, .*; pass .*\*\.tar'"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("home", ["beside", "cache"])
def test_the_index_is_kept_and_followed_up(tmp_path, monkeypatch, home):
    monkeypatch.setattr(shard_index, "WORTH", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, read = numbered(tmp_path / "shards"), []
    if home == "cache":
        (folder / shard_index.FOLDER).write_text("in the way")
    original = shard_index.read_index
    monkeypatch.setattr(shard_index, "read_index", lambda file: read.append(file.name) or original(file))
    first = fingerprint(open_source(str(folder)))
    assert sorted(read) == ["000.tar", "001.tar", "002.tar"]
    kept = folder / shard_index.FOLDER if home == "beside" else tmp_path / "cache" / "esvit_fast"
    assert len(list(kept.rglob("*.safetensors"))) == 3
    read.clear()
    assert fingerprint(open_source(str(folder))) == first and read == []
    assert np.array_equal(open_source(str(folder)).image(7), pixels(7))
    shard(folder / "001.tar", {"x.png": encoded(0), "x.cls": b"1"})
    assert len(open_source(str(folder))) == 9 and read == ["001.tar"]
    for file in kept.rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:30])
    assert len(open_source(str(folder))) == 9 and len(read) == 4


@pytest.mark.parametrize("cache", [None, "", "relative"])
def test_without_a_home_the_index_is_kept_nowhere_else(tmp_path, monkeypatch, caplog, cache):
    monkeypatch.setattr(shard_index, "WORTH", 0)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", Mock(side_effect=KeyError("uid")))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if cache is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
    folder = numbered(tmp_path / "shards")
    (folder / shard_index.FOLDER).write_text("in the way")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with caplog.at_level(logging.WARNING):
        assert len(open_source(str(folder))) == 12
    assert caplog.text.count("cannot be kept: neither .esvit_fast_index nor the user's cache can be written") == 3
    assert not list((tmp_path / "here").iterdir())


def test_small_sets_leave_no_index(tmp_path):
    open_source(str(numbered(tmp_path)))
    assert not (tmp_path / shard_index.FOLDER).exists()


def cut(folder, keep):
    file = folder / "001.tar"
    file.write_bytes(file.read_bytes()[:keep])


def overwrite_header(file):
    with tarfile.open(file) as archive:
        place = archive.getmembers()[3].offset
    whole = file.read_bytes()
    file.write_bytes(whole[:place] + b"x" * 512 + whole[place + 512 :])


def endless_member(file):
    """A size beyond 63 bits."""
    data = bytearray(file.read_bytes())
    data[124:136], data[148:156] = b"\x80" + b"\xff" * 11, b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    file.write_bytes(data)


def end_of_members(file):
    with tarfile.open(file) as archive:
        last = archive.getmembers()[-1]
        return last.offset_data + -(-last.size // 512) * 512


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: cut(f, 700), r"shard '.*001\.tar' ends early; fetch or pack it again"),
        (lambda f: cut(f, end_of_members(f / "001.tar")), r"001\.tar' ends early; fetch"),
        (lambda f: overwrite_header(f / "001.tar"), r"001\.tar' is damaged at byte [\d,]+; fetch or pack"),
        (lambda f: cut(f, end_of_members(f / "001.tar") - 1300), r"001\.tar' ends early"),
        (lambda f: endless_member(f / "001.tar"), r"001\.tar' is damaged \(.*\); fetch"),
        (lambda f: cut(f, 0), r"001\.tar' is empty, 0 bytes; fetch or pack it again, or leave it out"),
        (lambda f: shard(f / "001.tar", {"a.txt": b"x"}), r"001\.tar' has no images; leave it out or pack it again"),
        (lambda f: (f / "001.tar").write_bytes(b"x" * 2000), r"001\.tar' is damaged \(.*\); fetch"),
        (
            lambda f: (f / "001.tar").write_bytes(gzip.compress(b"x")),
            r"001\.tar' is compressed \(gzip\).*decompress it",
        ),
        (
            lambda f: shard(f / "001.tar", {"a.json": b"{", "a.png": b""}),
            r"holds a\.json, which is not JSON; repair it",
        ),
        (lambda f: shard(f / "001.tar", {"a.cls": b"\xff", "a.png": b""}), r"holds a\.cls, which is not UTF-8 text"),
    ],
)
def test_bad_shards_are_named_with_the_remedy(tmp_path, spoil, message):
    spoil(numbered(tmp_path))
    with pytest.raises(SourceError, match=message) as caught:
        open_source(str(tmp_path))
    assert "\n" not in str(caught.value) and f"data.source={str(tmp_path)!r}" in str(caught.value)


@pytest.mark.parametrize("folder", ["set [v2]", "set {a,b}", "what*?", "[a-c]/[0]"])
@pytest.mark.parametrize("pattern", ["*.tar", "{000..002}.tar", "0[0-9][0-9].tar", "**/*.tar"])
def test_folders_with_marks_of_patterns_in_their_names(tmp_path, folder, pattern):
    numbered(tmp_path / folder)
    assert len(open_source(str(tmp_path / folder / pattern))) == 12
    numbered(tmp_path / folder, name="part[1]-{}.tar")
    assert len(open_source(str(tmp_path / folder / "part[1]-*.tar"))) == 12


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{000..009}.tar", r"there is no .*003\.tar and 6 more; 3 others are there; fetch what is missing"),
        ("{000..003}.tar", r"there is no .*003\.tar; 3 others are there"),
        ("x*.tar", r"there is no .*x\*\.tar; fetch what is missing or name what is there"),
        ("{2..0}.tar", r"\{2\.\.0\} must rise; write \{0\.\.2\}"),
        ("*.t*", r"names \.tar and \.txt files; name uncompressed \.tar or \.parquet ones"),
    ],
)
def test_bad_patterns(tmp_path, pattern, message):
    (numbered(tmp_path) / "a.txt").touch()
    with pytest.raises(SourceError, match=message):
        open_source(str(tmp_path / pattern))


def test_a_list_with_a_missing_shard(tmp_path):
    (numbered(tmp_path) / "list.txt").write_text("000.tar\n001.tar\n007.tar\n")
    with pytest.raises(SourceError, match=r"shard '.*007\.tar' No such file or directory; check it"):
        open_source(str(tmp_path / "list.txt"))


def test_addresses_are_refused():
    with pytest.raises(SourceError, match="is not on this machine; copy it to a disk"):
        open_source("s3://bucket/000.tar")


def test_ranges_keep_their_zeros_and_multiply(tmp_path):
    for name in ("a-08", "a-09", "a-10", "b-08", "b-09", "b-10"):
        (tmp_path / name).touch()
    assert [p.name for p in expand(f"{tmp_path}/{{a,b}}-{{08..10}}")] == [
        "a-08",
        "a-09",
        "a-10",
        "b-08",
        "b-09",
        "b-10",
    ]


def test_a_shard_cut_while_in_use_is_a_corrupt_image(tmp_path):
    source = open_source(str(numbered(tmp_path)))
    cut(tmp_path, 100)
    with pytest.raises(CorruptImage, match=r"001\.tar/0005\.png: the archive ends before the image does"):
        source.image(5)
    (tmp_path / "002.tar").unlink()
    with pytest.raises(CorruptImage, match="No such file"):
        source.image(11)


def test_the_difference_of_shards_is_told(tmp_path):
    then = json.loads(json.dumps(fingerprint(open_source(str(numbered(tmp_path / "a"))))))
    assert changes(then, fingerprint(open_source(str(numbered(tmp_path / "b"))))) is None

    def now(spec):
        return changes(then, fingerprint(open_source(str(spec))))

    assert now(tmp_path / "a" / "{000,002}.tar") == "12 images then, 8 now; 1 shard missing (001.tar)"
    assert now(tmp_path / "a" / "{002,000,001}.tar") == "12 images then, 12 now; the shards are in another order"
    shard(tmp_path / "a" / "001.tar", {"x.png": encoded(0)})
    (tmp_path / "a" / "002.tar").rename(tmp_path / "a" / "004.tar")
    assert now(tmp_path / "a") == (
        "12 images then, 9 now; 1 shard missing (002.tar), 1 shard new (004.tar), "
        "1 shard with other images (001.tar: 4 then, 1 now)"
    )
    assert now(tmp_path / "b" / "000.tar") == "12 images then, 4 now; they were in shards"


def test_a_card_holds_the_folder_to_its_shards(tmp_path):
    numbered(tmp_path)
    shards = [{"file": file.name, "bytes": file.stat().st_size} for file in sorted(tmp_path.glob("*.tar"))]

    def card(**changed):
        (tmp_path / CARD).write_text(
            json.dumps({"complete": True, "classes": ["cat", "dog"], "shards": shards} | changed)
        )

    card()
    assert open_source(str(tmp_path)).classes == open_source(f"{tmp_path}/*.tar").classes == ("cat", "dog")
    card(complete=False)
    with pytest.raises(SourceError, match="has not been packed to the end; give its `esvit-fast data pack` again"):
        open_source(str(tmp_path))
    card(shards=[*shards, {"file": "003.tar", "bytes": 1}, {"file": "004.tar", "bytes": 1}])
    with pytest.raises(SourceError, match=r"003\.tar is missing, and 1 more differ, says shards\.json; copy or pack"):
        open_source(str(tmp_path))
    card(shards=shards[1:])
    with pytest.raises(SourceError, match=r"000\.tar is new, says"):
        open_source(str(tmp_path))
    card(shards=[shards[0] | {"bytes": 5}, *shards[1:]])
    with pytest.raises(SourceError, match=r"000\.tar has [\d,]+ bytes instead of 5, says"):
        open_source(str(tmp_path))
    card(classes=["cat"])
    with pytest.raises(SourceError, match=r"has label 1, but shards\.json has 1 classes; repair it"):
        open_source(str(tmp_path))
    (tmp_path / CARD).write_text("{")
    with pytest.raises(SourceError, match=r"shards\.json' is damaged"):
        open_source(str(tmp_path))


def test_a_list_may_name_shards_both_ways(tmp_path, monkeypatch):
    numbered(tmp_path / "a", 1), numbered(tmp_path / "b", 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text(f"a/000.tar\n{tmp_path}/b/000.tar\n")
    assert [name for name, _ in open_source("list.txt").shards] == ["a/000.tar", "b/000.tar"]


def test_a_card_of_somebody_else_is_none(tmp_path):
    (numbered(tmp_path) / CARD).write_text('{"shards": ["000.tar"]}')
    assert len(open_source(str(tmp_path))) == 12
