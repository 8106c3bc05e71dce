from __future__ import annotations

import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from esvit_fast.data import CorruptImage, SourceError, open_source
from esvit_fast.data.sources.encoded import Strings

from ..stand_ins import pixels, write_images

NAMES = ["cat/1.png", "cat/2.PNG", "dog/deep/3.png", "dog/4.png"]


def pack(folder, archive, prefix=""):
    """Archive a folder, smallest name first, with a folder's worth of distractions."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as out:
            for n, path in enumerate(files):
                method = zipfile.ZIP_DEFLATED if n % 2 else zipfile.ZIP_STORED
                out.write(path, prefix + path.relative_to(folder).as_posix(), compress_type=method)
            out.writestr("__MACOSX/cat/1.png", b"resource fork")
    else:
        with tarfile.open(archive, "w") as out:
            out.add(folder, prefix or "./")
    return archive


@pytest.fixture(params=["folder", "zip", "tar", "wrapped.zip", "wrapped.tar"])
def form(request, tmp_path):
    """A function that turns a folder into one of the forms of a source."""
    kind = request.param

    def convert(folder):
        if kind == "folder":
            return str(folder)
        return str(pack(folder, tmp_path / f"images.{kind}", "all/of/it/" if "wrapped" in kind else ""))

    return convert


def names(source):
    return [source.path(i).rsplit("/", 1)[1] for i in range(len(source))]


def test_classes_are_first_folders(tmp_path, form):
    root = write_images(tmp_path / "images", [*NAMES, ".hidden/5.png", "cat/.6.png"])
    (root / "cat" / "notes.txt").write_text("not an image")
    source = open_source(form(root))
    assert source.classes == ("cat", "dog") and len(source) == 4
    assert names(source) == ["1.png", "2.PNG", "4.png", "3.png"]
    assert [source.label(i) for i in range(4)] == [0, 0, 1, 1]
    for i, seed in enumerate([0, 1, 3, 2]):
        assert np.array_equal(source.image(i), pixels(seed))


def test_flat_folder_is_unlabelled(tmp_path, form):
    source = open_source(form(write_images(tmp_path / "images", ["b.png", "a.png"])))
    assert source.classes == () and [source.label(i) for i in range(2)] == [-1, -1]
    assert names(source) == ["a.png", "b.png"]


@pytest.mark.parametrize("test", ["test", "val", "validation"])
def test_splits_share_the_numbers_of_classes(tmp_path, form, test):
    files = ["train/ant/1.png", "train/cat/2.png", "train/dog/3.png", f"{test}/dog/4.png", f"{test}/ant/5.png"]
    spec = form(write_images(tmp_path / "images", files))
    train, held_out = open_source(spec), open_source(spec, split="test")
    assert train.classes == held_out.classes == ("ant", "cat", "dog")
    assert [train.label(i) for i in range(3)] == [0, 1, 2] and [held_out.label(i) for i in range(2)] == [0, 2]
    assert np.array_equal(held_out.image(0), pixels(4))


def test_labelled_validation_is_preferred_to_an_unlabelled_test_set(tmp_path, form):
    spec = form(write_images(tmp_path / "images", ["train/a/1.png", "test/2.png", "val/a/3.png"]))
    assert names(open_source(spec, split="test")) == ["3.png"]


def test_missing_split_is_an_error(tmp_path, form):
    spec = form(write_images(tmp_path / "images", ["train/a/1.png", "train/b/2.png"]))
    assert len(open_source(spec)) == 2
    with pytest.raises(SourceError, match=r"no test images \(called test or val .*\); add images in a folder of such"):
        open_source(spec, split="test")


def test_shards_gain_a_split_by_more_shards(tmp_path):
    write_images(tmp_path / "images", ["1.png", "2.png"])
    (tmp_path / "shards" / "train").mkdir(parents=True)
    pack(tmp_path / "images", tmp_path / "shards" / "train" / "0.tar")
    with pytest.raises(SourceError, match=r"no test images \(.*\); add \.tar files in a folder of such a name"):
        open_source(str(tmp_path / "shards"), split="test")


@pytest.mark.parametrize(("example", "place"), [("assets/1.png", "data"), ("1.png", ".")])
def test_images_and_shards_in_one_folder_are_not_mixed_up(tmp_path, example, place):
    write_images(tmp_path / "images", [f"{n}.png" for n in range(3)])
    write_images(tmp_path / "set", [example])
    (tmp_path / "set" / place).mkdir(exist_ok=True)
    pack(tmp_path / "images", tmp_path / "set" / place / "all.tar")
    with pytest.raises(
        SourceError, match=r"holds 1 images, '.*' first, and 1 shards, '.*all\.tar' first; pass"
    ) as caught:
        open_source(str(tmp_path / "set"))
    assert len(open_source(str(caught.value).split("; pass ")[1].split("'")[1])) == 3
    write_images(tmp_path / "set", [f"a/{n}.png" for n in range(100)])
    source = open_source(str(tmp_path / "set"))  # the archive is a copy
    assert len(source) == 101 and source.account.left_out[0].count == 1


def test_a_class_may_be_called_train(tmp_path, form):
    source = open_source(form(write_images(tmp_path / "images", ["train/1.png", "tram/2.png"])), split="test")
    assert source.classes == ("train", "tram")


def test_undivided_sources_are_the_same_for_both_splits(tmp_path, form):
    spec = form(write_images(tmp_path / "images", NAMES))
    assert names(open_source(spec, split="test")) == names(open_source(spec))
    with pytest.raises(SourceError, match="split='valid' must be one of train, test"):
        open_source(spec, split="valid")


def test_sources_read_the_same_after_pickling_and_forking(tmp_path, form):
    source = open_source(form(write_images(tmp_path / "images", NAMES)))
    expected = [source.image(i) for i in range(4)]
    copy = pickle.loads(pickle.dumps(source))
    assert all(np.array_equal(copy.image(i), expected[i]) for i in range(4)) and copy.classes == source.classes
    child = os.fork()
    if child == 0:
        os._exit(0 if all(np.array_equal(source.image(i), expected[i]) for i in (3, 1)) else 1)
    assert np.array_equal(source.image(2), expected[2])
    assert os.waitpid(child, 0)[1] == 0


def test_unreadable_files_are_corrupt_images(tmp_path):
    root = write_images(tmp_path / "images", ["a.png", "b.png", "c.png"])
    source = open_source(str(root), max_megapixels=1e-5)
    with pytest.raises(CorruptImage, match=r"a\.png: has 32x24 pixels"):
        source.image(0)
    (root / "b.png").unlink()
    with pytest.raises(CorruptImage, match=r"b\.png: No such file"):
        source.image(1)
    (root / "c.png").write_bytes(bytes(2 << 20))
    with pytest.raises(CorruptImage, match=r"c\.png: has 2097152 bytes, too many for max_megapixels=1e-05"):
        source.image(2)


def test_links_are_followed_but_not_in_circles(tmp_path):
    root = write_images(tmp_path / "images", ["cat/1.png"])
    other = write_images(tmp_path / "elsewhere", ["2.png"])
    (root / "dog").symlink_to(other)
    (root / "cat" / "again").symlink_to(root)
    source = open_source(str(root))
    assert source.classes == ("cat", "dog") and names(source) == ["1.png", "2.png"]


def test_folders_that_link_to_each_other_are_walked_once(tmp_path):
    write_images(tmp_path, ["a/0.png", "b/1.png"])
    for one, other in ("ab", "ba"):
        (tmp_path / one / "other").symlink_to(tmp_path / other)
    names = list(open_source(str(tmp_path)).paths)
    assert names == ["a/0.png", "a/other/1.png", "b/1.png", "b/other/0.png"]


@pytest.mark.parametrize("name", ["sp ace/ü.png", "caf\udce9/1.png"])
def test_any_file_name_works(tmp_path, name):
    source = open_source(str(write_images(tmp_path, [name, "other/2.png"])))
    assert len(source) == 2 and all(source.image(i).shape == (24, 32, 3) for i in range(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "absent", r"does not exist; pass a folder, a list"),
        (lambda p: p, r"has no images; looked for jpg jpeg png"),
        (lambda p: _write(p / "a.tar.gz", b"x"), r"is compressed.*unpack it to an uncompressed \.tar"),
        (lambda p: _write(p / "a.bin", b"x"), r"is neither a folder"),
        (lambda p: _write(p / "a.zip", b"x"), r"cannot be read as a \.zip"),
        (lambda p: _write(p / "a.tar", b"x" * 2000), r"cannot be read as an uncompressed \.tar"),
        (lambda p: _write(p / "a.txt", b"\n\n"), r"lists no images; write one path a line"),
        (lambda p: _write(p / "a.txt", b"gone.jpg 3\n"), r"lists 'gone\.jpg', which is not a file in .*; write paths"),
        (lambda p: _write(p / "a.txt", b"\xff\xfe"), r"is not UTF-8 text"),
    ],
)
def test_errors_are_one_line_with_the_value(tmp_path, make, message):
    spec = str(make(tmp_path))
    with pytest.raises(SourceError, match=message) as caught:
        open_source(spec)
    assert "\n" not in str(caught.value) and f"data.source={spec!r}" in str(caught.value)


def _write(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("spec", ["", "nonsense", "~nobody-of-this-name/images"])
def test_unknown_specifications(spec):
    with pytest.raises(SourceError, match=f"data.source={spec!r} does not exist"):
        open_source(spec)


def test_empty_archives(tmp_path):
    for suffix in (".zip", ".tar"):
        (tmp_path / "docs").mkdir(exist_ok=True)
        (tmp_path / "docs" / "readme.txt").write_text("no images")
        with pytest.raises(SourceError, match="the archive has no images"):
            open_source(str(pack(tmp_path / "docs", tmp_path / f"a{suffix}")))


@pytest.mark.parametrize("separator", ["\t", ",", ", ", " "])
def test_lists(tmp_path, separator):
    write_images(tmp_path, ["x/b.png", "a.png", "c d.png"])
    lines = [f"x/b.png{separator}dog", f"a.png{separator}cat", "", f"c d.png{separator}dog"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    source = open_source(str(tmp_path / "list.txt"))
    assert source.classes == ("cat", "dog") and [source.label(i) for i in range(3)] == [1, 0, 1]
    assert np.array_equal(source.image(2), pixels(2))


def test_lists_without_labels_and_with_spaces(tmp_path):
    write_images(tmp_path, ["a b.png", "c,d.png"])
    (tmp_path / "list.txt").write_text(f"a b.png\n{tmp_path}/c,d.png\n")
    source = open_source(str(tmp_path / "list.txt"))
    assert source.classes == () and source.label(0) == -1
    assert np.array_equal(source.image(1), pixels(1))


def test_lists_with_numbers_and_a_header(tmp_path):
    write_images(tmp_path, ["a.png", "b.png", "c.png"])
    (tmp_path / "list.csv").write_text('path,label\na.png,10\n"b.png",2\nc.png\n')
    source = open_source(str(tmp_path / "list.csv"))
    assert [source.label(i) for i in range(3)] == [1, 0, -1] and source.classes == ("2", "10")


def test_damaged_members_are_corrupt_images(tmp_path):
    root = write_images(tmp_path / "images", ["a.png", "b.png", "c.png"])
    archive = pack(root, tmp_path / "images.zip")
    with zipfile.ZipFile(archive) as opened:
        infos = opened.infolist()
    data = bytearray(archive.read_bytes())
    for info, shift in ((infos[0], 60), (infos[1], 60)):  # one stored, one deflated
        data[info.header_offset + shift] ^= 0xFF
    data[infos[2].header_offset : infos[2].header_offset + 4] = b"gone"
    archive.write_bytes(data)
    source = open_source(str(archive))
    for index, why in enumerate(
        ["its checksum in the archive is wrong", "checksum|cannot be unpacked", "points to no member"]
    ):
        with pytest.raises(CorruptImage, match=why):
            source.image(index)


def test_members_that_unpack_to_too_much_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a/bomb.png", bytes(30 << 20))
    with pytest.raises(CorruptImage, match="has 31457280 bytes, too many for max_megapixels=1"):
        open_source(str(tmp_path / "bomb.zip"), max_megapixels=1).image(0)


@pytest.mark.parametrize("said", [1000, 0])
def test_a_member_whose_size_is_a_lie_is_refused(tmp_path, said):
    archive = tmp_path / "lie.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a/bomb.png", bytes(10 << 20))
    data = archive.read_bytes()
    archive.write_bytes(data.replace(struct.pack("<I", 10 << 20), struct.pack("<I", said)))
    source = open_source(str(archive))
    tracemalloc.start()
    with pytest.raises(CorruptImage, match="checksum"):
        source.image(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


@pytest.mark.parametrize("name", ["file_size", "compress_size", "header_offset"])
def test_a_zip_of_sizes_beyond_63_bits_is_refused(tmp_path, name):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("a.png", b"data")
        setattr(out.filelist[0], name, 2**63 + 5)
    with pytest.raises(SourceError, match=r"a\.zip' cannot be read as a \.zip: .* too .*; check it, or unpack"):
        open_source(str(archive))


def test_encrypted_and_exotic_zips_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as out:
        out.writestr("x.png", b"data")
    with pytest.raises(SourceError, match=r"x\.png is compressed by method 14; pack the images stored or deflated"):
        open_source(str(tmp_path / "a.zip"))


def test_truncated_tar(tmp_path):
    root = write_images(tmp_path / "images", ["a.png", "b.png"])
    archive = pack(root, tmp_path / "images.tar")
    source = open_source(str(archive))
    with tarfile.open(archive) as opened:
        cut = max(m.offset_data for m in opened if m.isreg()) + 10
    archive.write_bytes(archive.read_bytes()[:cut])
    readable = []
    for index in range(2):
        try:
            readable.append(source.image(index))
        except CorruptImage as error:
            assert error.why == "the archive ends before the image does"
    assert len(readable) == 1
    with pytest.raises(SourceError, match=r"as an uncompressed \.tar: ends early; fetch or pack it again"):
        open_source(str(archive))


def test_strings():
    strings = ["", "a", "ü\udcff", "", "end"]
    packed = pickle.loads(pickle.dumps(Strings(strings)))
    assert [packed[i] for i in range(5)] == strings and len(packed) == 5


def test_grey_jpeg_in_a_folder(tmp_path):
    Image.fromarray(pixels(0)).convert("L").save(tmp_path / "g.jpeg")
    image = open_source(str(tmp_path)).image(0)
    assert image.shape == (24, 32, 3) and (image[..., 0] == image[..., 2]).all()
