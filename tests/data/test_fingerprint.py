"""What a checkpoint knows of its images, and how the difference to today's is told."""

from __future__ import annotations

import json

import pytest

from esvit_fast.data import changes, fingerprint, open_source

from .stand_ins import write_images


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


def test_older_checkpoints_hold_only_the_hash():
    now = fingerprint(Named(numbered(5)))
    assert changes(now["sha256"], now) is None
    assert changes("0" * 64, now) == "their names or labels differ"


def test_the_hash_is_what_it_was():
    """Of `name, NUL, label, NUL` for every image."""
    import hashlib

    expected = hashlib.sha256(b"".join(f"{i}.png\0\0".encode() for i in range(5))).hexdigest()
    assert fingerprint(Named(numbered(5)))["sha256"] == expected
