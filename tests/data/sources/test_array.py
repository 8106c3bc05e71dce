"""Images in .npy and .npz files."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from esvit_fast.data import SourceError, fingerprint, open_source

from ..stand_ins import pixels

IMAGES = np.stack([pixels(n) for n in range(6)])
LABELS = np.array([0, 2, 1, 0, -1, 2])


def save(folder, form):
    """The same images and labels in every form."""
    if form == "npy":
        np.save(folder / "a.npy", IMAGES)
        np.save(folder / "a_labels.npy", LABELS)
        return str(folder / "a.npy")
    arrays = {"images": IMAGES, "labels": LABELS[:, None]}
    (np.savez_compressed if form == "compressed" else np.savez)(folder / "a.npz", **arrays)
    return str(folder / "a.npz")


@pytest.mark.parametrize("form", ["npy", "npz", "compressed"])
def test_images_and_labels_after_pickling_and_forking(tmp_path, form):
    source = open_source(save(tmp_path, form))
    assert len(source) == 6 and source.classes == ("0", "1", "2")
    assert [source.label(i) for i in range(6)] == LABELS.tolist()
    assert all(np.array_equal(source.image(i), IMAGES[i]) for i in range(6))
    assert isinstance(source._images, np.memmap) == (form != "compressed")
    data = pickle.dumps(source)
    assert len(data) < 2000
    copy = pickle.loads(data)
    assert np.array_equal(copy.image(5), IMAGES[5]) and fingerprint(copy) == fingerprint(source)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(source.image(3), IMAGES[3]) else 1)
    assert os.waitpid(child, 0)[1] == 0
    image = source.image(0)
    image[:] = 0
    assert np.array_equal(source.image(0), IMAGES[0])


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "val_images", "val_labels"),
        ("X_train", "Y_train", "X_test", "Y_test"),
    ],
)
def test_splits_of_an_npz(tmp_path, keys):
    np.savez(tmp_path / "a.npz", **dict(zip(keys, (IMAGES[:4], LABELS[:4], IMAGES[4:], LABELS[4:]), strict=True)))
    train, test = (open_source(str(tmp_path / "a.npz"), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (4, 2) and np.array_equal(test.image(1), IMAGES[5]) and test.label(0) == -1


def test_grey_alpha_and_unlabelled(tmp_path):
    np.save(tmp_path / "grey.npy", IMAGES[..., 0])
    image = open_source(str(tmp_path / "grey.npy")).image(2)
    assert image.shape == (24, 32, 3) and all(np.array_equal(image[..., c], IMAGES[2, ..., 0]) for c in range(3))
    np.save(tmp_path / "alpha.npy", np.concatenate([IMAGES, IMAGES[..., :1]], axis=3))
    source = open_source(str(tmp_path / "alpha.npy"))
    assert np.array_equal(source.image(1), IMAGES[1]) and source.classes == () and source.label(1) == -1


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, r"is uint8 \[6, 3, 24, 32\]; transpose it \(0, 2, 3, 1\)"),
        ({"images": IMAGES / 255}, r"is float64 \[6, 24, 32, 3\]; scale it to 0 to 255 and convert it"),
        ({"images": IMAGES.astype(np.int32)}, r"is int32 .*; convert it"),
        ({"images": IMAGES[:0]}, r"is uint8 \[0, 24, 32, 3\]"),
        (
            {"images": IMAGES, "labels": LABELS[:5]},
            r"has labels int64 \[5\] for 6 images; they must be one whole number",
        ),
        ({"images": IMAGES, "labels": LABELS / 2}, r"has labels float64 \[6\] for 6 images"),
        ({"images": IMAGES, "labels": LABELS - 1}, r"must be one whole number from 0 on for each, -1 for none"),
        ({"pictures": IMAGES}, r"has no images, only pictures; name the arrays images and labels, or x_train"),
        ({"x_train": IMAGES}, r"has no test images, only x_train; name"),
    ],
)
def test_arrays_that_are_no_images(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(SourceError, match=message) as caught:
        open_source(str(tmp_path / "a.npz"), "test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("keep", [0, 5, 300])
def test_files_that_end_early(tmp_path, name, keep):
    spec = save(tmp_path, name[2:])
    with open(spec, "r+b") as file:
        file.truncate(keep)
    with pytest.raises(SourceError, match="cannot be read: .*; save it again") as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("shape", ["(-1, 24, 32, 3)", f"({2**63 - 1}, 24, 32, 3)", f"({10**30}, 24, 32, 3)"])
def test_sizes_that_no_array_has(tmp_path, shape):
    file = tmp_path / "a.npy"
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".ljust(117).encode() + b"\n"
    file.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(4096))
    with pytest.raises(SourceError, match="cannot be read: .*; save it again"):
        open_source(str(file))


def test_images_that_are_too_large(tmp_path):
    with pytest.raises(SourceError, match=r"has images of 32x24 pixels, more than max_megapixels=0\.0005"):
        open_source(save(tmp_path, "npy"), max_megapixels=0.0005)


@pytest.mark.parametrize("name", ["a.npy", "a_labels.npy"])
def test_an_npz_under_the_name_of_an_npy(tmp_path, name):
    np.save(tmp_path / "a.npy", IMAGES)
    with open(tmp_path / name, "wb") as file:
        np.savez(file, images=IMAGES)
    with pytest.raises(SourceError, match="cannot be read: the magic string is not correct; .*; save it again"):
        open_source(str(tmp_path / "a.npy"))
