"""Random layouts as every kind of source: splits, classes and counts are those that were drawn."""

from __future__ import annotations

from collections import Counter

import pytest

from esvit_fast.data import open_splits
from esvit_fast.data.sources.account import account_of

from .drawn_layouts import (
    KINDS,
    draw,
    draw_column,
    draw_named,
    draw_odd,
    write,
    write_column,
    write_folder,
    write_named,
)

LAYOUTS = 60


def counts(source):
    """Images of each class, "" for those of none; all of them can be read."""
    labels = [source.label(index) for index in range(len(source))]
    assert source.image(len(source) - 1).shape == (4, 4, 3)
    return Counter(source.classes[label] if label >= 0 else "" for label in labels)


@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_is_read_as_it_was_drawn(tmp_path, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    for seed in range(LAYOUTS):
        check(seed, kind, tmp_path / str(seed))


def check(seed, kind, root):
    """Compare a source with its layout."""
    root.mkdir()
    drawn = draw(seed)
    found = open_splits(write(drawn, kind, root))
    truth = drawn.truth
    if kind in ("list", "parquet") and len(truth) == 1:  # who lists images of one split only means these
        truth = {"all": next(iter(truth.values()))}
    assert {split: counts(source) for split, source in found.items()} == truth, (seed, drawn.files.keys())
    assert len({source.classes for source in found.values()}) == 1
    named = {"list": "png", "parquet": "png"}.get(kind)  # these name images only
    aside = [path for path in drawn.aside if named is None or (path.endswith(".png") and "hidden" not in path)]
    told = account_of(next(iter(found.values()))).left_out
    assert sum(entry.count for entry in told) == len(aside), (seed, told, aside)


@pytest.mark.parametrize(
    ("draw_told", "write_told", "kind"),
    [
        (draw_column, write_column, "list"),
        (draw_column, write_column, "parquet"),
        (draw_named, write_named, "shards"),
        (draw_named, write_named, "parquet"),
    ],
)
def test_splits_that_are_told_are_those_that_were_drawn(tmp_path, draw_told, write_told, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    for seed in range(LAYOUTS):
        (tmp_path / str(seed)).mkdir()
        told = draw_told(seed)
        found = open_splits(write_told(told, kind, tmp_path / str(seed)))
        images = {split: set(source.paths) for split, source in found.items()}
        assert images == {"train": told.train, "test": told.test}, (seed, told.by)
        account = account_of(found["train"])
        assert not told.is_said or account.remarks or account.left_out, (seed, account)


def test_what_says_test_and_more_is_for_testing_or_told(tmp_path):
    for seed in range(LAYOUTS):
        files, tests = draw_odd(seed)
        found = open_splits(write_folder(files, tmp_path / str(seed)))
        trained = next(iter(found.values()))
        names = {path for index in range(len(trained)) if (path := trained.path(index).split(f"/{seed}/")[1])}
        is_said = bool(account_of(trained).remarks)
        assert is_said or not any(path.startswith(tuple(f"{name}/" for name in tests)) for path in names), (seed, files)
