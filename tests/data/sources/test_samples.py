"""One image of each sample."""

from __future__ import annotations

from collections import Counter

import pytest

from esvit_fast.data.sources.samples import one_a_sample, sample_and_field


@pytest.mark.parametrize(
    ("name", "sample", "field"),
    [
        ("a/b.jpg", "a/b", "jpg"),
        ("a.b/c.Mask.PNG", "a.b/c", "mask.png"),
        ("frame.0001.jpg", "frame.0001", "jpg"),
        ("1.5_face.seg.png", "1.5_face", "seg.png"),
        ("bare", "bare", ""),
    ],
)
def test_samples_and_fields(name, sample, field):
    assert sample_and_field(name) == (sample, field)


def taken(*names, sure=True, of=None):
    rows, left = one_a_sample(names, of, sure=sure)
    others = [name for row, name in enumerate(names) if row not in rows]
    assert sum(entry.count for entry in left) == len(others) and len(left) <= 1
    return [names[row] for row in rows], Counter(f".{sample_and_field(name)[1]}" for name in others)


def test_the_image_itself_is_taken():
    names = [f"{n}.{field}" for n in "ab" for field in ("preview.jpg", "mask.png", "png", "jpg", "seg.png")]
    fields = {".preview.jpg": 2, ".mask.png": 2, ".png": 2, ".seg.png": 2}
    assert taken(*names) == (["a.jpg", "b.jpg"], fields)
    left = one_a_sample(names, sure=True)[1]
    assert list(map(str, left)) == ["8 left out: one image a sample, its .jpg (a.preview.jpg, a.mask.png, a.png, …)"]


def test_fields_of_any_number_are_one_reason():
    names = [f"{n}.{field}" for n in range(500) for field in ("jpg", f"crop_{n}.jpg")]
    assert taken(*names)[0] == [f"{n}.jpg" for n in range(500)] and len(one_a_sample(names, sure=True)[1]) == 1


def test_a_sample_that_has_but_a_mask_is_left_out_unless_all_have():
    assert taken("a.jpg", "b.mask.png") == (["a.jpg"], {".mask.png": 1})
    assert taken("a.mask.png", "b.mask.png") == (["a.mask.png", "b.mask.png"], {})


def test_views_of_a_sample_and_numbers_in_names():
    assert taken("a.cond.png", "a.image.png") == (["a.image.png"], {".cond.png": 1})
    assert taken("a.left.png", "a.right.png") == (["a.left.png"], {".right.png": 1})
    names = ("shot.1.png", "shot.2.png", "x/shot.png")
    assert taken(*names) == (list(names), {})
    assert taken("a.png", "a.jpg", of=[0, 1]) == (["a.png", "a.jpg"], {})  # of two shards


def test_in_an_archive_that_is_not_sure_to_hold_samples_only_masks_are_left_out():
    assert taken("a.png", "a.jpg", "a.left.jpg", "a.mask.png", sure=False) == (
        ["a.png", "a.jpg", "a.left.jpg"],
        {".mask.png": 1},
    )
