"""No image is silently missing: what is in a folder or archive is an image of the source, or told."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from esvit_fast.data import CorruptImage, SourceError, open_source, open_splits, warning_of
from esvit_fast.data.sources import content
from esvit_fast.data.sources.account import account_of
from esvit_fast.data.sources.content import format_of, sort_out

from ..stand_ins import encoded, jpeg, pixels, write_images
from .test_shards import shard


def told(source):
    """What was left out, by reason."""
    return {entry.why: (entry.count, *entry.first) for entry in account_of(source).left_out}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "AVIF"])
def test_formats_are_known_by_content(tmp_path, kind):
    if kind not in content.FORMATS:
        pytest.skip("this Pillow has no AVIF")
    data = jpeg(pixels(0), kind)
    assert format_of(data[: content.HEAD]) == kind
    for name in ("bare", "a.heic", "b.2019", "c.thing"):
        (tmp_path / name).write_bytes(data)
    source = open_source(str(tmp_path))
    assert list(source.paths) == ["a.heic", "b.2019", "bare", "c.thing"] and told(source) == {}
    assert all(source.image(n).shape == (24, 32, 3) for n in range(4)) and warning_of(source) is None


def test_a_jpeg_with_another_suffix_and_formats_that_cannot_be_read(tmp_path):
    write_images(tmp_path, ["a.png"])
    (tmp_path / "a.jfif").write_bytes(jpeg(pixels(1)))
    (tmp_path / "b.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "c.jxl").write_bytes(b"\xff\x0a" + bytes(50))
    (tmp_path / "notes.txt").write_text("x"), (tmp_path / "old.zip").write_bytes(b"x"), (tmp_path / "odd").touch()
    (tmp_path / ".hidden.png").write_bytes(encoded(0)), (tmp_path / ".cache").mkdir()
    (tmp_path / ".DS_Store").touch(), (tmp_path / "Thumbs.db").touch(), (tmp_path / "._a.png").touch()
    source = open_source(str(tmp_path))
    assert list(source.paths) == ["a.jfif", "a.png"]
    assert told(source) == {
        "HEIC images, which cannot be read here: convert them": (1, "b.heic"),
        "JPEG XL images, which cannot be read here: convert them": (1, "c.jxl"),
        "no images by their names": (1, "notes.txt"),
        "no images by their content": (1, "odd"),
        "archives beside or inside of the images, which are not opened": (1, "old.zip"),
        "hidden": (2, ".cache/", ".hidden.png"),
    }
    assert warning_of(source).startswith(f"data.source={str(tmp_path)!r}: ") and "\n" not in warning_of(source)


def test_only_what_a_name_does_not_tell_is_looked_into(monkeypatch):
    looked = []
    names = ["a.png", "b.txt", *(f"{n}.dat" for n in range(5000)), *(f"{n}.raw" for n in range(5000)), "x", "y"]

    def head(row):
        looked.append(names[row])
        return jpeg(pixels(0))[:32] if names[row].endswith(".dat") or names[row] == "y" else b"nothing"

    images, entries = sort_out(names, head)
    assert images == [0, *range(2, 5002), len(names) - 1]
    assert len({name for name in looked if name.endswith(".dat")}) == content.SAMPLE  # all images
    assert {name for name in looked if not name.endswith(".dat")} == {*names[5002:]}  # none is left out unseen
    assert [(entry.why, entry.count) for entry in entries] == [
        ("no images by their names", 1),
        ("no images by their content", 5000),
        ("no images by their content", 1),
    ]


@pytest.mark.parametrize("others", [("depth",), ("a_depth",), ("a", "b", "z"), ("0", "1", "2", "3", "4", "5", "6")])
def test_what_comes_at_regular_places_is_not_missed(others):
    names = [f"{n:05d}/{name}" for n in range(1024) for name in sorted(("color", *others))]
    images, entries = sort_out(names, lambda row: jpeg(pixels(0))[:32] if "color" in names[row] else b"nothing")
    assert [names[row] for row in images] == [f"{n:05d}/color" for n in range(1024)]
    assert sum(entry.count for entry in entries) == 1024 * len(others)


def test_few_images_among_many_files_are_found():
    images, _ = sort_out([f"{n}" for n in range(20_000)], lambda row: b"\xff\xd8\xff" if row == 777 else b"nothing")
    assert images == [777]


def test_files_that_are_none_hang_nobody(tmp_path):
    write_images(tmp_path, ["a.png", "c0/b.png"])
    os.mkfifo(tmp_path / "x.jpg"), os.mkfifo(tmp_path / "c0" / "y"), (tmp_path / "null.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(tmp_path / "s.jpg"))
        source = open_source(str(tmp_path))
    assert told(source) == {"pipes, sockets or devices": (4, "c0/y", "null.png", "s.jpg")} and len(source) == 2
    (tmp_path / "list.txt").write_text("a.png\nx.jpg\nnull.png\nc0\n")
    source = open_source(str(tmp_path / "list.txt"))
    for index in (1, 2, 3):
        with pytest.raises(CorruptImage, match="is no file but a folder, pipe or device|Is a directory"):
            source.image(index)
    os.mkfifo(tmp_path / "0.tar")
    for spec in ("x.jpg", "0.tar", "*.tar"):
        with pytest.raises(SourceError, match="pipe"):
            open_source(str(tmp_path / spec))


def test_links_and_folders_that_lead_nowhere_are_told(tmp_path, monkeypatch):
    write_images(tmp_path, ["cat/1.png", "dog/2.png", "locked/3.png", "dog/shut/4.png"])
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "absent.png")
    (tmp_path / "cat" / "self.png").symlink_to("self.png")
    (tmp_path / "dog" / "again").symlink_to(tmp_path)
    scandir = os.scandir

    def refuse(path):
        if str(path).rstrip("/").endswith(("locked", "shut")):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr("esvit_fast.data.sources.folder.os.scandir", refuse)
    source = open_source(str(tmp_path))
    assert list(source.paths) == ["cat/1.png", "dog/2.png"] and told(source) == {
        "folders that cannot be read": (2, "dog/shut/", "locked/"),
        "links that lead nowhere": (2, "cat/gone.png", "cat/self.png"),
        "links to folders that enclose them": (1, "dog/again/"),
    }
    monkeypatch.setattr("esvit_fast.data.sources.folder.os.scandir", lambda path: scandir(tmp_path / "absent"))
    with pytest.raises(SourceError, match="cannot be read: No such file or directory; check it"):
        open_source(str(tmp_path))


def add(archive, name, data=b"", **facts):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in facts.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_links_in_archives_are_followed(tmp_path, kind):
    images, links = (
        {"cat/1.png": encoded(0), "pool/x/2.png": encoded(1)},
        {
            "dog/3.png": "../pool/x/2.png",
            "dog/4.png": "3.png",
            "dog/5.png": "../eel/2.png",
            "eel": "pool/x",
            "cat/gone.png": "nothing.png",
            "cat/out.png": "../../../etc/x.png",
            "pool/x/round": "..",
        },
    )
    if kind == "tar":
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            for name, data in images.items():
                add(archive, name, data)
            for name, target in links.items():
                add(archive, name, type=tarfile.SYMTYPE, linkname=target)
            add(archive, "cat/5.png", type=tarfile.LNKTYPE, linkname="cat/1.png")
            add(archive, "cat/pipe.png", type=tarfile.FIFOTYPE)
    else:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name, data in images.items():
                archive.writestr(name, data)
            for name, target in links.items():
                info = zipfile.ZipInfo(name)
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(info, target)
            info = zipfile.ZipInfo("cat/pipe.png")
            info.external_attr = (stat.S_IFIFO | 0o644) << 16
            archive.writestr(info, b"")
    source = open_source(str(tmp_path / f"a.{kind}"))
    hard = ["cat/5.png"] if kind == "tar" else []
    assert list(source.paths) == [
        "cat/1.png",
        *hard,
        "dog/3.png",
        "dog/4.png",
        "dog/5.png",
        "eel/2.png",
        "pool/x/2.png",
    ]
    by_name = {source.paths[n]: source.image(n) for n in range(len(source))}
    assert all(np.array_equal(by_name[name], pixels(1)) for name in by_name if not name.startswith("cat"))
    assert all(np.array_equal(by_name[name], pixels(0)) for name in by_name if name.startswith("cat"))
    assert source.classes == ("cat", "dog", "eel", "pool") and told(source) == {
        "links that lead nowhere": (3, "cat/gone.png", "cat/out.png", "pool/x/round"),
        "pipes, sockets or devices": (1, "cat/pipe.png"),
    }


def test_tars_that_were_joined_are_read_on(tmp_path):
    for n in range(3):
        shard(tmp_path / f"{n}.tar", {f"{n}.png": encoded(n)})
    joined = b"".join((tmp_path / f"{n}.tar").read_bytes() for n in range(3))
    (tmp_path / "all.tar").write_bytes(joined + bytes(3 << 20))
    source = open_source(str(tmp_path / "all.tar"))
    assert [np.array_equal(source.image(n), pixels(n)) for n in range(3)] == [True] * 3 and told(source) == {}
    (tmp_path / "all.tar").write_bytes(joined + b"something else" * 100)
    assert list(told(open_source(str(tmp_path / "all.tar")))) == ["data behind its end that are no .tar"]
    (tmp_path / "all.tar").write_bytes(joined[: 2 * 10240 + 700])
    with pytest.raises(SourceError, match="ends early; fetch or pack it again"):
        open_source(str(tmp_path / "all.tar"))


def test_a_tar_of_tars_has_a_folder_for_each(tmp_path):
    for name in ("n0", "n1"):
        shard(tmp_path / f"{name}.tar", {f"{name}_{n}.png": encoded(n) for n in range(2)})
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for name in ("n0", "n1"):
            archive.add(tmp_path / f"{name}.tar", f"ILSVRC/{name}.tar")
        add(archive, "ILSVRC/n2.tar.gz", b"x")
    source = open_source(str(tmp_path / "all.tar"))
    assert list(source.paths) == [f"ILSVRC/{name}/{name}_{n}.png" for name in ("n0", "n1") for n in range(2)]
    assert source.classes == ("n0", "n1") and all(np.array_equal(source.image(n), pixels(n % 2)) for n in range(4))
    assert told(source) == {"archives beside or inside of the images, which are not opened": (1, "ILSVRC/n2.tar.gz")}
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "n0.tar", "n0.tar")
    with pytest.raises(
        SourceError, match=r"the archive has no images; .*; there are: 1 left out: archives .* \(n0.tar\)"
    ):
        open_source(str(tmp_path / "all.zip"))


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_of_members_with_one_name_the_last_counts(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar, zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for n in range(2):
            add(tar, "a.png", encoded(n)), archive.writestr("a.png", encoded(n))
    for kind in ("tar", "zip"):
        source = open_source(str(tmp_path / f"a.{kind}"))
        assert len(source) == 1 and np.array_equal(source.image(0), pixels(1))
        assert told(source) == {"another member of the same name follows": (1, "a.png")}


def test_a_zip_written_on_windows(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in ("set\\Train\\cat\\1.png", "set\\Train\\dog\\2.png", "set\\Valid\\cat\\3.png"):
            archive.writestr(path, encoded(0))
    found = open_splits(str(tmp_path / "a.zip"))
    assert [len(source) for source in found.values()] == [2, 1] and found["test"].classes == ("cat", "dog")
    assert found["test"].image(0).shape == (24, 32, 3)


def test_samples_of_shards_have_one_image(tmp_path):
    members = {}
    for n in range(3):
        image = encoded(n)
        members |= {
            f"{n}.jpg": image,
            f"{n}.mask.png": image,
            f"{n}.cls": b"1",
            f"{n}.txt": b"a cat",
            f"{n}.json": b"{}",
        }
    shard(tmp_path / "0.tar", members)
    source = open_source(str(tmp_path))
    assert list(source.paths) == ["0.jpg", "1.jpg", "2.jpg"] and source.classes == ("1",)
    assert told(source)["one image a sample, its .jpg"] == (3, "0.mask.png")
    assert list(open_source(str(tmp_path / "0.tar")).paths) == list(source.paths)


def test_what_was_left_out_of_shards_is_kept_with_their_index(tmp_path, monkeypatch):
    monkeypatch.setattr("esvit_fast.data.sources.shard_index.WORTH", 0)
    shard(tmp_path / "0.tar", {"a.png": encoded(0), "a.txt": b"x"})
    assert (
        told(open_source(str(tmp_path)))
        == told(open_source(str(tmp_path)))
        == {"no images by their names": (1, "a.txt")}
    )


def test_arrays_that_are_not_used_are_told(tmp_path):
    images = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    np.savez(
        tmp_path / "a.npz", x_train=images, x_val=images, x_test=images, y_train=[0, 1], y_val=[1, 0], extra=images
    )
    source = open_source(str(tmp_path / "a.npz"), "test")
    assert source.key == "x_val"  # which has labels
    assert told(source) == {
        "the test split is val, and not test": (1, "test/x_test"),
        "arrays that are not used": (1, "extra"),
    }


def test_a_picture_of_another_size_in_a_folder(tmp_path):
    Image.new("RGB", (3, 2)).save(tmp_path / "a.ppm")
    assert open_source(str(tmp_path)).image(0).shape == (2, 3, 3)
