"""What a checkpoint knows of its images, and how the difference to today's is told."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from esvit_fast.data import changes, fingerprint, open_source

from ..stand_ins import write_images


def test_fingerprint_tells_names_labels_and_order_but_not_where_the_folder_lies(tmp_path):
    def tree(root, *names):
        write_images(root, names)
        return fingerprint(open_source(str(root)))

    first = tree(tmp_path / "one", "cat/a.png", "dog/b.png")
    assert tree(tmp_path / "two", "cat/a.png", "dog/b.png") == first
    assert tree(tmp_path / "three", "cat/a.png", "dog/c.png") != first
    assert tree(tmp_path / "four", "cat/a.png", "elk/b.png") != first
    assert fingerprint(open_source("sample:20")) != fingerprint(open_source("sample:21"))
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("one/cat/a.png 0\none/dog/b.png 1\n"), two.write_text("one/cat/a.png 1\none/dog/b.png 0\n")
    assert fingerprint(open_source(str(one))) != fingerprint(open_source(str(two)))


class Named:
    """A source of which only the names matter."""

    name, classes, labels = "named", (), None

    def __init__(self, names):
        self.names = names

    def __len__(self):
        return len(self.names)

    def path(self, index):
        return self.names[index]


def numbered(count, **other):
    return [other.get(f"n{i}", f"{i}.png") for i in range(count)]


def told(then, now):
    """The difference, after the first has been through a checkpoint."""
    return changes(json.loads(json.dumps(fingerprint(Named(then)))), fingerprint(Named(now)))


def test_no_difference():
    assert told(numbered(50), numbered(50)) is None
    assert told(numbered(5000), numbered(5000)) is None


@pytest.mark.parametrize("count", [10, 1024])
def test_in_small_sets_the_first_image_is_named(count):
    names = numbered(count)
    assert told(names, names[:3] + names[4:]) == (
        f"{count:,} images then, {count - 1:,} now; the first that differs is number 3, '3.png' then, '4.png' now"
    )
    assert told(names, numbered(count, n3="x.png")).endswith("number 3, '3.png' then, 'x.png' now")
    assert told(names, names[:-2]).endswith(f"those from number {count - 2:,} on are missing, '{count - 2}.png' first")
    assert told(names[:-1], names).endswith(f"those from number {count - 1:,} on are new, '{count - 1}.png' first")


def test_in_large_sets_the_run_of_images_is_named():
    names = numbered(4000)
    assert len(json.dumps(fingerprint(Named(names)))) < 60_000
    said = told(names, names[:1001] + names[1002:])
    assert said == (
        "4,000 images then, 3,999 now; the first that differs is among the 4 from number 1,000 on, '1000.png'"
    )
    assert told(names[:1000], names[:7] + names[8:]).startswith("1,000 images then, 3,999 now; the first that")
    assert "among the 4 from number 4 on" in told(names[:1000], names[:7] + names[8:])
    assert told(names[:1000], names).endswith("those from number 1,000 on are new, '1000.png' first")
    assert told(names, numbered(4000, n3998="x")).endswith("among the 4 from number 3,996 on, '3996.png'")


def test_a_label_alone_differs(tmp_path):
    write_images(tmp_path, ["a.png", "b.png"])
    (tmp_path / "one.txt").write_text("a.png 0\nb.png 1\n")
    then = fingerprint(open_source(str(tmp_path / "one.txt")))
    (tmp_path / "one.txt").write_text("a.png 0\nb.png 0\n")
    said = changes(then, fingerprint(open_source(str(tmp_path / "one.txt"))))
    assert said == "2 images then, 2 now; the first that differs is number 1, 'b.png', with another label"


@pytest.mark.parametrize(
    ("images", "hashes"),
    [
        ("a/0 b/0", ("239a6ec625", "239a6ec625", "239a6ec625")),
        ("train/a/0 train/b/0 test/a/0 test/b/0", ("239a6ec625", "4b877528ee", "4b877528ee")),
        ("train/images/0 test/images/0", ("b9f5b0875c", "378e4e8167", "378e4e8167")),
        ("train/all/0 train/all/1 val/all/0", ("d28d6789a0", "254015f76a", "254015f76a")),
        ("train/x/a/0 train/x/b/0 test/x/a/0", ("8cee433fb5", "79d189075c", "79d189075c")),
        ("train/b/0 train/c/0 test/b/0 test/c/0 val/a/0", ("adfe5fe9e6", "bffff75b57", "bffff75b57")),
        ("train/b/0 train/c/0 test/a/0 test/b/0", ("adfe5fe9e6", "bffff75b57", "bffff75b57")),
        ("train/0 train/1 test/0", ("176fd25167", "ca0f3ce5de", "ca0f3ce5de")),
        ("train/a/0 train/b/0 train/x test/a/0", ("ad9f716e60", "d2dc3b15b0", "d2dc3b15b0")),
        ("data/a/0 data/b/0", ("d24455deae", "282f2a3d1f", "282f2a3d1f")),
        ("Images/a/0 Images/b/0 logo", ("7098752adf", "7098752adf", "7098752adf")),
        ("train/a/0 train/b/0", ("239a6ec625", "4b877528ee", "4b877528ee")),
        ("train/b/0 train/c/0 test/b/0 train/a/", ("adfe5fe9e6", "96676049b4", "96676049b4")),
    ],
)
def test_runs_that_began_before_go_on_with_the_same_images(tmp_path, images, hashes):
    """These are the hashes of training images when classes were numbered otherwise: as a folder, .zip and .tar."""
    names = [f"{name}.png" for name in images.split() if not name.endswith("/")]
    write_images(tmp_path / "set", names)
    for empty in (name for name in images.split() if name.endswith("/")):
        (tmp_path / "set" / empty).mkdir()
    for kind in ("zip", "tar"):
        shutil.make_archive(str(tmp_path / "set"), kind, tmp_path / "set")
    specs = (tmp_path / "set", tmp_path / "set.zip", tmp_path / "set.tar")
    assert tuple(fingerprint(open_source(str(spec)))["sha256"][:10] for spec in specs) == hashes


def test_a_list_that_says_train_of_every_image_goes_on(tmp_path):
    names = ["train/a/0.png", "train/b/1.png", "test/a/2.png"]
    write_images(tmp_path, names)
    expected = hashlib.sha256("".join(f"{name}\0-1\0" for name in names).encode()).hexdigest()
    (tmp_path / "a.csv").write_text("path\n" + "".join(f"{name}\n" for name in names))
    assert len(open_source(str(tmp_path / "a.csv"))) == 2
    (tmp_path / "a.csv").write_text("path,split\n" + "".join(f"{name},train\n" for name in names))
    assert fingerprint(open_source(str(tmp_path / "a.csv")))["sha256"] == expected


def test_older_checkpoints_hold_only_the_hash():
    now = fingerprint(Named(numbered(5)))
    assert changes(now["sha256"], now) is None
    assert changes("0" * 64, now) == "their names or labels differ"


def test_the_hash_is_what_it_was():
    """Of `name, NUL, label, NUL` for every image."""
    expected = hashlib.sha256(b"".join(f"{i}.png\0\0".encode() for i in range(5))).hexdigest()
    assert fingerprint(Named(numbered(5)))["sha256"] == expected
