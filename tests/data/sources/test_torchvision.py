from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from esvit_fast.data import CorruptImage, SourceError, open_source, open_splits

from ..stand_ins import write_images


def mnist(root, count):
    """Files in the format of MNIST, which torchvision accepts without checksums."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = np.arange(count, dtype=np.uint8) % 10
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels.tobytes())
    return images


def test_torchvision_dataset_by_name(tmp_path):
    images = mnist(tmp_path, 12)
    source = open_source(f"torchvision:MNIST@{tmp_path}")
    assert len(source) == 12 and source.label(11) == 1 and source.classes[1] == "1 - one"
    assert np.array_equal(source.image(3), np.repeat(images[3][:, :, None], 3, 2))
    assert len(open_source(f"torchvision:MNIST@{tmp_path}", split="test")) == 12
    assert source.path(3).endswith("[3]")
    assert np.array_equal(pickle.loads(pickle.dumps(source)).image(3), source.image(3))


def test_splits_of_torchvision_are_told_apart_even_if_they_are_alike(tmp_path):
    mnist(tmp_path, 12)
    assert list(open_splits(f"torchvision:MNIST@{tmp_path}")) == ["train", "test"]
    test = open_source(f"torchvision:MNIST@{tmp_path}", "test")
    assert test.path(3) == f"torchvision:MNIST@{tmp_path}/test[3]"


@pytest.mark.parametrize(("split", "there"), [("train", "trainval"), ("test", "valid")])
def test_splits_of_torchvision_are_known_by_every_name_that_folders_have(tmp_path, monkeypatch, split, there):
    class Pets(torchvision.datasets.VisionDataset):
        """Knows one split, by a name that is not the commonest; has it below roots called full."""

        def __init__(self, root, split="none"):
            super().__init__(root)
            if split != there:
                raise ValueError(f"no split {split}")
            if Path(root).name != "full":
                raise RuntimeError("Dataset not found.")

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return Image.new("RGB", (4, 4)), 0

    monkeypatch.setattr(torchvision.datasets, "Pets", Pets, raising=False)
    assert len(open_source(f"torchvision:Pets@{tmp_path}/full", split)) == 3
    with pytest.raises(SourceError, match=r"cannot be opened: Dataset not found\.; fetch"):
        open_source(f"torchvision:Pets@{tmp_path}/empty", split)


def test_folders_of_torchvision_are_decoded_as_others_are(tmp_path):
    write_images(tmp_path, ["ant/0.png", "ant/1.png"])
    deep = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    (tmp_path / "cat").mkdir()
    Image.fromarray(deep).save(tmp_path / "cat" / "0.png")
    (tmp_path / "cat" / "1.png").write_bytes(b"nothing")
    source = open_source(f"torchvision:ImageFolder@{tmp_path}")
    for index in range(3):
        assert np.array_equal(source.image(index), open_source(str(tmp_path)).image(index))
    assert source.image(2).max() == 255 and source.image(2)[0, 16, 0] == 1  # torchvision's own loader: white
    with pytest.raises(CorruptImage, match="is no image of a known format"):
        source.image(3)


def test_torchvision_errors(tmp_path):
    with pytest.raises(SourceError, match=r"must be torchvision:NAME@ROOT, such as"):
        open_source("torchvision:CIFAR10")
    with pytest.raises(SourceError, match=r"must be torchvision:NAME@ROOT"):
        open_source(f"torchvision:os@{tmp_path}")
    with pytest.raises(
        SourceError, match=r"cannot be opened: .* torchvision.datasets.CIFAR10\(.*download=True\)"
    ) as caught:
        open_source(f"torchvision:CIFAR10@{tmp_path}")
    assert "\n" not in str(caught.value)
