"""Damaged files of every kind: an error of one line when they are opened, or corrupt images; nothing else."""

from __future__ import annotations

import random
import zipfile

import numpy as np
import pytest

from esvit_fast.data import CorruptImage, SourceError, decode_image, open_source
from esvit_fast.data.sources.content import FORMATS
from esvit_fast.data.tools.pack import PackSettings, pack

from .stand_ins import encoded, jpeg, pixels

FORMS = ("a.npy", "stored.npz", "deflated.npz", "a.zip", "a.tar", "a.parquet")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same three images in every form: {name: bytes}."""
    root = tmp_path_factory.mktemp("whole")
    arrays = {"images": np.stack([pixels(n) for n in range(3)]), "labels": np.arange(3)}
    np.save(root / "a.npy", arrays["images"])
    np.savez(root / "stored.npz", **arrays)
    np.savez_compressed(root / "deflated.npz", **arrays)
    with zipfile.ZipFile(root / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(3):
            archive.writestr(f"{n}.png", encoded(n))
    pack(open_source(str(root / "stored.npz")), root / "shards", PackSettings(), workers=0)
    (root / "shards" / "000000.tar").rename(root / "a.tar")
    return root


def damaged(data, rng):
    """Cut short, or with a few bytes changed, half of them near an end, where headers and directories are."""
    data = bytearray(data)
    if rng.random() < 0.3:
        return data[: rng.randrange(len(data))]
    for _ in range(rng.choice([1, 3, 20])):
        place = rng.choice([rng.randrange(len(data)), rng.randrange(min(1500, len(data))), -rng.randrange(1, 900)])
        data[place] = rng.randrange(256)
    return data


@pytest.mark.parametrize("name", FORMS)
def test_only_errors_that_say_what_is_wrong(files, tmp_path, name):
    if name == "a.parquet":
        pytest.importorskip("pyarrow")
        from .sources.test_parquet import write

        write(files / name, range(3), [0, 1, 0])
    whole, rng, refused = (files / name).read_bytes(), random.Random(name), 0
    file = tmp_path / name
    for _ in range(60):
        file.write_bytes(damaged(whole, rng))
        try:
            source = open_source(str(file))
        except SourceError as error:
            assert "\n" not in str(error) and str(file) in str(error)
            refused += 1
            continue
        for index in range(len(source)):
            assert -1 <= source.label(index) < max(1, len(source.classes))
            try:
                assert source.image(index).shape[2] == 3
            except CorruptImage as error:
                assert "\n" not in str(error), error
    assert 5 < refused < 60


@pytest.mark.parametrize("kind", ["AVIF", "PPM"])
def test_damaged_images_of_rarer_formats_are_corrupt_images(kind):
    if kind not in FORMATS:
        pytest.skip("this Pillow has no AVIF")
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    whole, rng, refused = jpeg(noise, kind), random.Random(kind), 0
    for _ in range(200):
        try:
            assert decode_image(bytes(damaged(whole, rng)), "a").shape[2] == 3
        except CorruptImage as error:
            assert "\n" not in str(error)
            refused += 1
    assert 20 < refused < 200
