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
TRAIN = ("train", "Train", "TRAIN", "training", "train2017", "train_set", "images_train", "trainval")
TEST = ("test", "Test", "val", "valid", "VALID", "validation", "val2017", "test_images", "testing", "dev", "Eval")
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


def _parquet(files: dict[str, bytes], file: Path) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"bytes": data, "path": path} for path, data in files.items()]
    pq.write_table(pa.table({"image": rows}), file)
    return str(file)
