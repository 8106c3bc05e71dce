"""Layouts of images drawn at random, with what is in them, and as each kind of source."""

from __future__ import annotations

import io
import random
import tarfile
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

KINDS = ("folder", "zip", "tar", "shards", "list", "parquet")
TRAIN = ("train", "Train", "TRAIN", "training", "train2017", "train_set", "images_train", "trainval", "trn")
TEST = (
    "test",
    "Test",
    "val",
    "valid",
    "VALID",
    "validation",
    "val2017",
    "test_images",
    "testing",
    "dev",
    "Eval",
    "tst",
)
CLASSES = (
    "cat",
    "dog",
    "café",
    "n01440764",
    "7",
    "12",
    "Zebra fish",
    "train station",
    "test tube",
    "köln",
    "under_score",
)
AROUND = ("Images", "data", "my set", "2024", "archive.v2")
ASIDE = ("annotations", "labels", "masks", "docs")


class Drawn(NamedTuple):
    """Files by their paths; the truth: images of each class in each split, "" for none; and what is none of them."""

    files: dict[str, bytes]
    truth: dict[str, Counter]
    aside: list[str]


def draw(seed: int) -> Drawn:
    """A layout: what lies around everything, splits (none, one, two or three), classes above or below them or none."""
    rng = random.Random(seed)
    around = "".join(f"{name}/" for name in rng.sample(AROUND, rng.choice((0, 0, 1, 2))))
    classes = rng.sample(CLASSES, rng.choice((0, 2, 3, 4)))
    form = rng.choice(("undivided", "divided", "class first", "three", "one", "named", "masks", "vehicles"))
    if form == "class first" and not classes:
        form = "divided"
    if form == "vehicles":
        classes = ["bus", "train", "tram"]
    splits = {"undivided": [], "vehicles": [], "one": [rng.choice(TRAIN)], "named": ["cifar_train", "cifar-test"]}.get(
        form, [rng.choice(TRAIN), rng.choice(TEST)]
    )
    files: dict[str, bytes] = {}
    truth: dict[str, Counter] = {}
    aside: list[str] = []
    for split in splits or [""]:
        part = "all" if not split else "train" if split in TRAIN or split == "cifar_train" else "test"
        for name in classes or [""]:
            if name and part == "test" and name == classes[-1] and rng.random() < 0.3:
                continue  # the test images lack a class
            spelled = unicodedata.normalize(rng.choice(("NFC", "NFD")), name)
            parts = [spelled, split] if form == "class first" else [split, spelled]
            below = "deep/" if classes and form not in ("class first", "vehicles") and rng.random() < 0.2 else ""
            if form == "masks":  # train/images/cat/0.png and train/masks/cat/0.png
                parts = [split, "images", spelled]
                aside.append("".join(f"{part}/" for part in (around + split, "masks", spelled) if part) + "0.png")
            folder = around + "".join(f"{part}/" for part in parts if part) + below
            for number in range(rng.randint(1, 3)):
                path, data = _image(rng, f"{folder}{part}{number}")
                files[path] = data
                truth.setdefault(part, Counter())[unicodedata.normalize("NFC", name)] += 1
    if form == "three":  # a second split for testing, which is the first of two by name
        for number in range(2):
            aside.append(f"{around}holdout/{number}.png")
    if rng.random() < 0.4:
        aside.append(f"{around}{rng.choice(ASIDE)}/notes.json")
    if len(splits) == 2 and form in ("divided", "three") and rng.random() < 0.4:
        aside.append(f"{around}{rng.choice(ASIDE)}/a.png")
    if rng.random() < 0.4:
        aside.append(f"{around}{rng.choice(('README.md', 'LICENSE', '.hidden.png', 'file.xyz'))}")
    files |= {path: _bytes(rng, "PNG") if path.endswith(".png") else b"some text" for path in aside}
    return Drawn(files, truth, aside)


class Told(NamedTuple):
    """Images by their paths, and what tells the split of each: a value in a column, or the name of its file."""

    files: dict[str, bytes]
    by: dict[str, str]
    train: set[str]
    test: set[str]
    is_said: bool
    """Whether something must be remarked, or be left out and told."""


def draw_column(seed: int) -> Told:
    """A column of splits, or one with words for testing alone, over images that lie in folders called as splits."""
    rng = random.Random(seed)
    folders = rng.choice(
        (("train",), ("test",), ("data/val",), ("train/cats",), ("",), ("train", "test"), TRAIN + TEST)
    )
    sides = [(rng.choice(TRAIN), rng.choice(TEST)), (rng.choice(("A", "", "1")), rng.choice(TEST))]
    other, test = sides[is_said := rng.random() < 0.4]
    values = [other, test, *(rng.choice((other, test)) for _ in range(6))]
    names = [f"{rng.choice(folders)}/{number}.png".lstrip("/") for number in range(len(values))]
    by = dict(zip(names, values, strict=True))
    tests = {name for name, value in by.items() if value == test}
    return Told({name: _bytes(rng, "PNG") for name in names}, by, set(names) - tests, tests, is_said)


def draw_named(seed: int) -> Told:
    """Images in files that are named by splits, or by testing alone, with folders called as splits inside."""
    rng = random.Random(seed)
    set_name, around = rng.choice(("", "", "in1k-")), rng.choice(("", "", "data/"))
    test = rng.choice(("test", "val", "valid", "validation", "Test"))
    train = rng.choice(("train", "Train", "training", ""))  # "" for files that say nothing
    plain = [f"{around}{set_name or 'part-'}{number}" for number in range(rng.choice((0, 1)) if train else 2)]
    trains = [f"{around}{set_name}{train}-{number}" for number in range(2)] if train else plain
    by: dict[str, str] = {}
    for file in (*trains, *(plain if train else ()), f"{around}{set_name}{test}-0"):
        inside = rng.choice(("", "", "train/", "test/", "val/", "cat/"))
        by |= {f"{inside}{file.replace('/', '_')}-{number}.png": file for number in range(2)}
    trained = {path for path, file in by.items() if file in trains}
    tests = {path for path, file in by.items() if file not in (*trains, *plain)}
    return Told({path: _bytes(rng, "PNG") for path in by}, by, trained, tests, bool(plain))


def draw_odd(seed: int) -> tuple[dict[str, bytes], list[str]]:
    """Folders whose names say test and more, or stand beside classes; and those names."""
    rng = random.Random(seed)
    odd = ("test_hidden", "PublicTest", "test_A", "tests", "val_clean", "testing", "valid", "holdout", "test-noisy")
    tests = rng.sample(odd, rng.choice((1, 2)))
    rest = rng.choice((["train"], ["Training"], ["c0", "c1"], ["train_clean"], ["c0", "train"], ["cats", "dogs", "ox"]))
    below = rng.choice(("", "a/", "deep/a/"))
    files = {f"{name}/{below}{n}.png": _bytes(rng, "PNG") for name in (*rest, *tests) for n in range(2)}
    return files, tests


def _bytes(rng: random.Random, kind: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.frombuffer(rng.randbytes(48), dtype=np.uint8).reshape(4, 4, 3)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _image(rng: random.Random, stem: str) -> tuple[str, bytes]:
    suffix = rng.choice((".png", ".png", ".jpg", ".JPEG", ".jfif", ".ppm", ".heic", ".webp", ".avif", ".x", ""))
    kind = {".png": "PNG", ".ppm": "PPM", ".webp": "WEBP"}.get(suffix, "JPEG")
    return stem + suffix, _bytes(rng, kind)


def write(drawn: Drawn, kind: str, root: Path) -> str:
    """The layout as a source of some kind; returns its specification."""
    files = dict(sorted(drawn.files.items()))
    if kind == "folder":
        return str(_folder(files, root / "set"))
    if kind == "zip":
        with zipfile.ZipFile(root / "set.zip", "w") as archive:
            for path, data in files.items():
                archive.writestr(path.replace("/", "\\") if len(files) % 2 else path, data)
        return str(root / "set.zip")
    if kind in ("tar", "shards"):
        parts = [files] if kind == "tar" else _halves(files, drawn.aside)
        folder = root if kind == "tar" else root / "set"
        folder.mkdir(exist_ok=True)
        for number, part in enumerate(parts):
            _tar(part, folder / ("set.tar" if kind == "tar" else f"{number:03d}.tar"))
        return str(root / "set.tar") if kind == "tar" else str(folder)
    named = [path for path in files if not path.endswith((".json", ".md", ".xyz", "LICENSE", ".hidden.png"))]
    if kind == "list":
        _folder(files, root)
        (root / "list.csv").write_text("path\n" + "".join(f"{path}\n" for path in named), encoding="utf-8")
        return str(root / "list.csv")
    return _parquet({path: files[path] for path in named}, root / "set.parquet")


def write_column(told: Told, kind: str, root: Path) -> str:
    """The images as a list or a Parquet file with a column of splits."""
    if kind == "parquet":
        return _parquet(told.files, root / "set.parquet", split=list(told.by.values()))
    _folder(told.files, root)
    rows = "".join(f"{path},{value}\n" for path, value in told.by.items())
    (root / "list.csv").write_text(f"path,split\n{rows}", encoding="utf-8")
    return str(root / "list.csv")


def write_named(told: Told, kind: str, root: Path) -> str:
    """The images in the files that tell their splits, .tar or .parquet, as a folder."""
    for file in set(told.by.values()):
        part = {path: data for path, data in told.files.items() if told.by[path] == file}
        (root / file).parent.mkdir(exist_ok=True, parents=True)
        (_tar if kind == "shards" else _parquet)(part, root / f"{file}.{'tar' if kind == 'shards' else kind}")
    return str(root)


def write_folder(files: dict[str, bytes], root: Path) -> str:
    """The files as a folder."""
    return str(_folder(files, root))


def _halves(files: dict[str, bytes], aside: list[str]) -> list[dict[str, bytes]]:
    """Every other file, after those that are no images, which no shard may have alone."""
    ordered = [*aside, *(path for path in files if path not in aside)]
    first = [*aside, *ordered[len(aside) :: 2]]
    return [{path: files[path] for path in part} for part in (first, ordered[len(aside) + 1 :: 2]) if part]


def _folder(files: dict[str, bytes], root: Path) -> Path:
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def _tar(files: dict[str, bytes], file: Path) -> None:
    with tarfile.open(file, "w") as archive:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _parquet(files: dict[str, bytes], file: Path, **columns: list[str]) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"bytes": data, "path": path} for path, data in files.items()]
    pq.write_table(pa.table({"image": rows, **columns}), file)
    return str(file)
