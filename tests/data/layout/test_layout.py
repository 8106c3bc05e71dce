"""The rule of layouts, on names alone."""

from __future__ import annotations

import itertools
import unicodedata

import numpy as np
import pytest

from esvit_fast.data.layout.divide import LayoutError
from esvit_fast.data.layout.rule import understand, words_of
from esvit_fast.data.layout.split_names import companions, divided_names, split_word


def read(*paths, **options):
    """Splits as {split: paths}, and classes of the images that are used."""
    found = understand(paths, **options)
    splits = {split: [paths[row] for row in rows.tolist()] for split, rows in found.splits.items()}
    labels = [found.classes[label] if label >= 0 else "" for label in found.labels.tolist()]
    return splits, dict(zip(paths, labels, strict=True)), found.account


@pytest.mark.parametrize(
    "train", ["train", "Train", "TRAINING", "train2017", "train_set", "images-train", "TrainImages"]
)
@pytest.mark.parametrize("test", ["test", "Test", "val", "valid", "VALIDATION", "val2017", "testset", "dev", "eval"])
def test_splits_are_known_however_they_are_spelled(train, test):
    splits, labels, _ = read(f"{train}/cat/1", f"{test}/cat/2", f"{test}/dog/3")
    assert splits == {"train": [f"{train}/cat/1"], "test": [f"{test}/cat/2", f"{test}/dog/3"]}
    assert list(labels.values()) == ["cat", "cat", "dog"]
    assert list(read(f"{train}/1", f"{test}/2")[0]) == ["train", "test"]


@pytest.mark.parametrize(
    "name", ["train station", "test tube", "trainers", "contest", "invalid", "value", "train_test", ""]
)
def test_other_names_are_no_splits(name):
    assert split_word(name) == ""


@pytest.mark.parametrize("around", ["", "Images/", "a/b.c/", "test/", "train/"])
@pytest.mark.parametrize("separator", ["/", "\\"])
def test_folders_around_everything_are_nothing(around, separator):
    paths = [f"{around}{name}".replace("/", separator) for name in ("train/cat/1", "train/dog/2", "val/cat/3")]
    splits, labels, account = read(*paths)
    assert splits == {"train": paths[:2], "test": paths[2:]} and list(labels.values()) == ["cat", "dog", "cat"]
    assert not around or f"{around[:-1]}/ around everything" in account.layout
    if around not in ("test/", "train/"):
        paths = [f"{around}{name}".replace("/", separator) for name in ("cat/1", "dog/2")]
        assert read(*paths)[:2] == ({"all": paths}, dict(zip(paths, ("cat", "dog"), strict=True)))


@pytest.mark.parametrize("aside", ["annotations/1", "masks/a/1", "unlabeled/1", "loose"])
def test_what_lies_beside_splits_is_left_out_and_told(aside):
    for around in ("", "set/"):
        splits, _, account = read(f"{around}train/1", f"{around}test/2", f"{around}{aside}")
        assert splits == {"train": [f"{around}train/1"], "test": [f"{around}test/2"]}
        assert [(entry.count, entry.first) for entry in account.left_out] == [(1, (f"{around}{aside}",))]


def test_of_several_tests_one_is_taken_and_the_other_told():
    splits, _, account = read("train/1", "val/2", "test/3")
    assert splits["test"] == ["test/3"] and str(account.left_out[0]) == (
        "1 left out: the test split is test, and not val (val/2)"
    )
    assert read("train/a/1", "val/a/2", "test/3")[0]["test"] == ["val/a/2"]  # the one with classes
    labelled = np.array([True, True, False])
    assert read("train/1", "val/2", "test/3", labelled=labelled)[0]["test"] == ["val/2"]


def test_splits_below_classes():
    splits, labels, account = read("cat/train/1", "cat/test/2", "dog/train/3", "dog/test/4")
    assert splits == {"train": ["cat/train/1", "dog/train/3"], "test": ["cat/test/2", "dog/test/4"]}
    assert list(labels.values()) == ["cat", "cat", "dog", "dog"] and "above the splits" in account.layout
    _, labels, account = read("cat/train/1", "cat/test/2", "dog/train/3", "dog/test/4", "eel/5")
    assert labels["eel/5"] == "" and account.left_out[0].first == ("eel/5",)
    with pytest.raises(
        LayoutError, match=r"^cat/train/ looks like a split, but 3 images lie in none and only 2 in one;"
    ):
        understand(["cat/train/1", "cat/test/2", "dog/1", "dog/2", "eel/3"])


def test_sets_beside_each_other_are_united():
    splits, labels, _ = read("a/train/cat/1", "a/test/cat/2", "b/train/dog/3", "b/val/dog/4")
    assert splits["train"] == ["a/train/cat/1", "b/train/dog/3"]
    assert set(labels.values()) == {"cat", "dog"}


def test_a_class_may_be_called_as_a_split():
    assert read("train/1", "tram/2")[:2] == ({"all": ["train/1", "tram/2"]}, {"train/1": "train", "tram/2": "tram"})
    assert list(read("valid/1", "invalid/2")[1].values()) == ["valid", "invalid"]
    paths = [f"{split}/{name}/1" for split in ("train", "test") for name in ("bus", "train")]
    splits, labels, _ = read(*paths)
    assert splits == {"train": paths[:2], "test": paths[2:]} and list(labels.values()) == ["bus", "train"] * 2


def test_a_test_folder_beside_classes_is_not_trained_on():
    splits, labels, account = read("cat/1", "dog/2", "test/3", "test/cat/4")
    assert splits == {"train": ["cat/1", "dog/2"], "test": ["test/3", "test/cat/4"]}
    assert list(labels.values()) == ["cat", "dog", "", "cat"]
    assert "what lies outside of test/ is taken for training" in account.remarks[0]


def test_a_split_alone():
    assert read("train/a/1", "train/b/2")[0] == {"train": ["train/a/1", "train/b/2"]}
    assert read("test/1")[0] == {"test": ["test/1"]}
    for paths in (["train/a/1", "train/b/2"], ["x/test/1"]):
        assert read(*paths, lone=False)[0] == {"all": paths}


@pytest.mark.parametrize("where", ["", "train/", "test/", "val/", "train/cats/", "data/val/n1/"])
def test_a_split_that_is_told_is_overruled_by_no_folder(where):
    paths = [f"{where}{number}" for number in range(4)]
    for words in (["train", "test", "train", "val"], ["test", "train", "train", "test"]):
        splits, _, account = read(*paths, words=words, lone=False)
        assert splits["train"] == [path for path, word in zip(paths, words, strict=True) if word == "train"]
        assert set(splits["test"]) == {path for path, word in zip(paths, words, strict=True) if word == "test"}
        assert [entry.first for entry in account.left_out] == ([(paths[3],)] if words[3] == "val" else [])


def test_sets_that_are_divided_anew_lose_no_image():
    paths = ["train/a/1", "train/b/2", "test/a/3", "test/b/4"]
    splits, labels, account = read(*paths, words=["test", "train", "train", "test"], lone=False)
    assert splits == {"train": ["train/b/2", "test/a/3"], "test": ["train/a/1", "test/b/4"]}
    assert list(labels.values()) == ["a", "b", "a", "b"]
    assert account.left_out == () and account.remarks == (
        "images in test/ are for training, as is told of each of them",
    )
    splits, _, account = read("train/1", "train/2", "train/3", words=["train", "test", "extra"])
    assert splits == {"train": ["train/1"], "test": ["train/2"]}
    assert str(account.left_out[0]) == (
        "1 left out: of the split 'extra', which is neither for training nor for testing (train/3)"
    )
    splits, _, _ = read("train/1", "val/2", words=["train", "train"])  # a name that all files have tells less
    assert splits == {"train": ["train/1"], "test": ["val/2"]}


def test_nothing_of_a_test_folder_is_trained_on():
    paths = ["train/train/1", "val/train/2"]
    assert read(*paths)[:2] == ({"train": paths[:1], "test": paths[1:]}, dict.fromkeys(paths, ""))
    paths = ["train/train/1", "train/val/2", "test/train/3", "test/val/4"]
    assert read(*paths)[0]["train"] == paths[:1]
    paths = ["train/train/1", "train/val/2"]
    assert read(*paths, "test/3")[0] == {"train": paths[:1], "test": ["test/3"]}
    splits, _, account = read("train/val/n1/1", "train/val/n2/2", "test/val/n1/3")
    assert splits == {"train": ["train/val/n1/1", "train/val/n2/2"], "test": ["test/val/n1/3"]}
    assert "what lies in val/ inside of train/ is taken for training" in account.remarks[0]


@pytest.mark.parametrize(
    ("train", "tests"),
    [
        ("Training", ["PublicTest", "PrivateTest"]),
        ("train", ["test_hidden"]),
        ("train", ["test_A", "test_B"]),
        ("train", ["tests"]),
        ("train", ["val_clean", "test_noisy"]),
    ],
)
@pytest.mark.parametrize("below", ["", "cat/"])
def test_names_that_say_test_and_more_are_for_testing_beside_train(train, tests, below):
    paths = [f"{train}/{below}1", f"{train}/{below}2", *(f"{name}/{below}{n}" for n, name in enumerate(tests))]
    for lone in (False, True):
        splits, labels, account = read(*paths, lone=lone)
        left = [path for entry in account.left_out for path in entry.first]
        assert splits["train"] == paths[:2] and sorted([*splits["test"], *left]) == sorted(paths[2:])
        assert not set(labels.values()) & {train, *tests}


def test_classes_that_may_be_test_images_are_told():
    for name in ("valid", "testing", "holdout", "tests", "test_hidden", "test tube", "dev"):
        (remark,) = read("c0/1", "c1/2", f"{name}/3")[2].remarks
        assert remark.startswith(f"{name}/ may be test images by name, but are trained on;")
    assert read("train/1", "tram/2", "test tube/3")[2].remarks[0].startswith("test tube/ may be test images")
    assert read("train_clean/a/1", "test_noisy/a/2")[2].remarks[0].startswith("test_noisy/ may be test images")
    assert any(said.startswith("test_2x/ may") for said in read("val/1", "test_2x/2", "c/3")[2].remarks)
    assert "test_A/ and 1 more may be" in read("a/train/1", "a/test_A/2", "b/train/3", "b/test_B/4")[2].remarks[0]
    assert read("train/1", "tram/2", "bus/3")[2].remarks == () == read("a/1", "contest/2")[2].remarks


def test_masks_are_no_class():
    for paths in (
        ["images/train/1", "images/val/2", "masks/train/1"],
        ["train/images/1", "val/images/2", "train/masks/1"],
    ):
        splits, labels, account = read(*paths)
        assert splits == {"train": paths[:1], "test": paths[1:2]} and set(labels.values()) == {""}
        assert account.left_out[0].why == "belong to the images beside them"
    assert read("train/1", "train_masks/2")[0] == {"train": ["train/1"]}
    assert set(read("masks/1", "gloves/2")[1].values()) == {"masks", "gloves"}
    assert companions(["JPEGImages", "SegmentationClass", "Annotations", "x_seg", "x", "y_seg", "cats"]) == {
        "SegmentationClass": ["JPEGImages"],
        "Annotations": ["JPEGImages"],
        "x_seg": ["x"],
    }


def test_label_maps_in_a_parallel_tree_are_left_out():
    def tree(top, *endings):
        return [
            f"{top}/{split}/{city}/{city}_{n:06d}_{ending}"
            for split in ("train", "val", "test")
            for city in ("aachen", "bonn")
            for n in range(3)
            for ending in endings
        ]

    photos, fine = tree("leftImg8bit", "leftImg8bit.png"), tree("gtFine", "gtFine_color.png", "gtFine_labelIds.png")
    splits, _, account = read(*photos, *fine, *tree("gtCoarse", "gtCoarse_labelIds.png"))
    assert set(splits["train"]) <= set(photos) and set(splits["test"]) <= set(photos)
    assert {entry.why: entry.count for entry in account.left_out}["belong to the images beside them"] == 54
    views = [f"{view}/{name}.png" for view in ("left", "right") for name in ("ab_1", "bc_2", "cd_3")]
    assert read(*views)[2].remarks == (
        "left/ and right/ have files of the same names; move one away if it holds masks or the like",
    )
    for names in (["cat/1", "dog/1"], ["a/img_1", "a/img_2", "b/img_1", "b/img_2"], ["masks/1", "gloves/1"]):
        assert read(*names)[2].remarks == () and not read(*names)[2].left_out


def test_masks_of_numbered_folders():
    images = [f"{number:03d}/{n}" for number in range(2) for n in range(3)]
    splits, labels, account = read(*images, *(path.replace("/", "_mask/") for path in images))
    assert splits == {"all": images} and set(labels.values()) >= {"000", "001"} and account.left_out[0].count == 6


def test_a_class_that_is_called_as_a_mask_is_kept_unless_its_files_are_those_of_the_other():
    faces, masked = [f"face/p{n}" for n in range(4)], [f"face_mask/q{n}" for n in range(4)]
    splits, labels, account = read(*faces, *masked)
    assert splits == {"all": faces + masked} and set(labels.values()) == {"face", "face_mask"}
    assert account.remarks[0].startswith("face_mask/ is taken for a class, as its files are not called as those in ")
    for name in ("p{}", "p{}_mask", "mask_p{}"):
        splits, _, account = read(*faces, *(f"face_mask/{name.format(n)}.png" for n in range(4)))
        assert splits == {"all": faces} and account.left_out[0].count == 4


def test_a_folder_called_images_in_one_split_is_no_class():
    splits, labels, _ = read("train/cat/images/1", "train/dog/images/2", "val/images/3")
    assert splits["test"] == ["val/images/3"] and list(labels.values()) == ["cat", "dog", ""]
    assert read("train/images/1", "train/dog/2", "val/images/3")[1]["val/images/3"] == "images"


def test_names_that_differ_by_the_split():
    splits, labels, _ = read("ILSVRC2012_img_train/n1/1", "ILSVRC2012_img_val/n1/2", "ILSVRC2012_img_val/n2/3")
    assert (len(splits["train"]), len(splits["test"])) == (1, 2) and set(labels.values()) == {"n1", "n2"}
    assert divided_names(["cats_train", "dogs_test"]) == {}
    _, labels, _ = read("cats_train/1", "cats_test/2", "dogs_train/3", "dogs_test/4")
    assert list(labels.values()) == ["cats", "cats", "dogs", "dogs"]


def test_how_unicode_spells_a_class_makes_no_difference():
    one, other = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    found = understand([f"train/{one}/1", "train/tea/2", f"test/{other}/3", "test/tea/4"])
    assert found.classes == [one, "tea"] and found.labels.tolist() == [0, 1, 0, 1]
    assert "1 of them spelled in two ways of Unicode ('café')" in found.account.layout


def test_classes_that_look_like_a_mistake_are_told():
    assert read("Cat/1", "cat/2", "dog/3")[2].remarks == ("classes 'Cat' and 'cat' differ in case or blanks only",)
    assert read("train/a/1", "train/b/2", "test/a/3", "test/B/4")[2].remarks == (
        "classes 'B' and 'b' differ in case or blanks only",
        "1 class of test images without a training image, 'B' first",
    )


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["train-000.tar", "val_000.tar"], ["train", "val"]),
        (["default/train/0000.parquet", "default/test/0000.parquet"], ["train", "test"]),
        (["data/train-00000-of-00002.parquet", "data/test-00000-of-00001.parquet", "x.tar"], ["train", "test", None]),
        (["imagenet1k-train-0000.tar", "imagenet1k-validation-00.tar"], ["train", "val"]),
        (["a/Train/0.tar", "a/Valid/0.tar"], ["train", "val"]),
        (["train-0.tar", "train-1.tar"], ["", ""]),
        (["000.tar", "001.tar"], ["", ""]),
        (["cat/0.tar", "dog/0.tar"], ["", ""]),
        (["shard-0000.tar", "shard-0001.tar", "test-0000.tar"], ["train", "train", "test"]),
        (["in1k-0.parquet", "in1k-validation-0.parquet"], ["train", "val"]),
        (["a/shard-0.tar", "b/shard-0.tar", "b/shard-test-0.tar"], ["train", "train", "test"]),
        (["a/shard-0.tar", "a/shard-1.tar", "val/0.tar"], ["train", "train", "val"]),
        (["test-0.tar", "test-1.tar"], ["", ""]),
        (["beaker-0.tar", "test-tube-0.tar"], ["", ""]),
        (["shard-0.tar", "dev-0.tar"], ["", ""]),
    ],
)
def test_splits_of_files(files, words):
    found, account = words_of(files, lone=False)
    assert found == words
    assert [entry.first for entry in account.left_out] == ([(files[-1],)] if None in words else [])


def test_files_that_are_called_test_beside_others_are_told():
    for beside, said in (
        ("test-0", "files that are not called like 'test-0' are taken for training"),
        ("dev-0", "file 'dev-0' may be test images by its name, but is trained on"),
        ("test-tube-0", "file 'test-tube-0' may be test images by its name, but is trained on"),
        ("val/0", "what lies outside of val/ is taken for training"),
    ):
        for lone in (False, True):
            (remark,) = words_of([f"{beside}.tar", "a/shard-0.tar", "a/shard-1.tar"], lone=lone)[1].remarks
            assert remark.startswith(said)
    assert words_of(["test-0.tar", "test-1.tar"], lone=True)[1].remarks == ()


def test_many_images_take_one_look_at_each_folder():
    paths = [f"set/{split}/{number % 7}/{number}.jpg" for split in ("train", "val") for number in range(20_000)]
    found = understand(paths)
    assert [len(rows) for rows in found.splits.values()] == [20_000, 20_000] and len(found.classes) == 7


@pytest.mark.parametrize("aside", ["{}", "train/{}_mask"])
def test_a_reason_is_told_once_however_many_folders_it_is_of(aside):
    names = ["".join(letters) for letters in itertools.product("abcdefghij", repeat=3)]
    beside = [f"{aside.format(name)}/{n}" for name in names for n in range(2)]
    splits = [f"{split}/{name}/{n}" for split in ("train", "test") for name in names for n in range(2)]
    (entry,) = understand([*beside, *splits]).account.left_out
    assert (entry.count, entry.first) == (2000, tuple(beside[:3])) and entry.why.endswith(("splits", "beside them"))


def test_images_beside_the_one_folder_of_classes():
    assert list(read("logo", "Images/a/1", "Images/b/2")[1].values()) == ["", "a", "b"]
    assert set(read("1", "more/2")[1].values()) == {""}


def test_what_may_be_meant_otherwise_is_remarked():
    assert read("Images/a/1", "Images/b/2", "docs/3")[2].remarks == (
        "class 'Images' is 2 folders and others are none; if those are classes, give Images/",
    )
    assert read("animals/a/1", "animals/b/2", "plants/c/3", "plants/d/4")[2].remarks == ()
    assert "put them in folders" in read("train_1", "test_2", "val_3")[2].remarks[0]
    assert read("train_1", "other_2", "test_3")[2].remarks == ()


@pytest.mark.parametrize("name", ["{}_{}.jpg", "{}{}", "set-{}-{}.png", "{}.{}"])
def test_splits_in_names_of_files_are_remarked(name):
    paths = [
        f"c{c}/{name.format(split, 2 * c + n)}" for c in (0, 1) for split in ("train", "test", "val") for n in (0, 1)
    ]
    for options in ({}, {"labelled": np.ones(len(paths), dtype=bool)}, {"lone": False}):
        remarks = read(*paths, **options)[2].remarks
        assert sum("say both training and testing, which divides nothing" in remark for remark in remarks) == 1
    assert read("c0/trainer_1", "c0/valley_2", "c1/testament_3")[2].remarks == ()
    assert read("train/c0/train_1", "test/c0/test_2")[2].remarks == ()
