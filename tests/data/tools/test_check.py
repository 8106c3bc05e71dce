"""What a survey of a source finds."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from esvit_fast.data import open_source
from esvit_fast.data.tools.check import Survey, copies_between, difference_hash, near_pairs

from ..stand_ins import ArraySource, pixels, write_images


def survey(root, workers=0):
    return Survey(open_source(str(root)), workers)


@pytest.fixture
def folder(tmp_path):
    """Two classes: copies within and across them, a near copy, grey and CMYK images, files that cannot be read."""
    root = write_images(tmp_path / "images", [f"cat/{n}.png" for n in range(6)])
    (root / "dog").mkdir()
    (root / "cat" / "copy.png").write_bytes((root / "cat" / "2.png").read_bytes())
    (root / "dog" / "copy.png").write_bytes((root / "cat" / "3.png").read_bytes())
    Image.fromarray(pixels(40, 300, 400)).save(root / "dog" / "large.jpg", quality=95)
    Image.fromarray(pixels(40, 300, 400)).resize((200, 150)).save(root / "dog" / "smaller.jpg", quality=80)
    Image.fromarray(pixels(41)).convert("L").save(root / "dog" / "grey.png")
    Image.fromarray(pixels(42)).convert("CMYK").save(root / "dog" / "print.jpg")
    (root / "cat" / "empty.jpg").touch()
    (root / "cat" / "cut.png").write_bytes((root / "cat" / "1.png").read_bytes()[:700])
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_every_finding(folder, workers):
    report = survey(folder, workers).report(0.01)
    assert report["images"] == 14 and report["formats"] == {"PNG": 9, "JPEG": 3}
    assert report["modes"] == {"RGB": 10, "L": 1, "CMYK": 1}
    bad = {entry["path"].rsplit("/", 1)[1]: entry["why"] for entry in report["unreadable"]}
    assert bad["empty.jpg"] == "is empty" and "truncated" in bad["cut.png"] and len(bad) == 2
    assert report["width"] == {"min": 32, "median": 32, "max": 400}
    assert report["short_side"]["max"] == 300 and report["megapixels"]["max"] == 0.12
    assert report["aspect"]["min"] == pytest.approx(4 / 3, abs=1e-4)
    assert report["bytes"] == sum(file.stat().st_size for file in folder.rglob("*.*") if file.name not in bad)
    classes = report["classes"]
    assert classes["images"] == {"cat": 9, "dog": 5} and classes["imbalance"] == 1.8 and not classes["empty"]
    assert report["copies"]["count"] == 2 and report["copies"]["labelled_otherwise"] == 1
    examples = [{"/".join(path.split("/")[-2:]) for path in pair} for pair in report["copies"]["examples"]]
    assert {"cat/2.png", "cat/copy.png"} in examples and {"cat/3.png", "dog/copy.png"} in examples
    assert report["look_alikes"]["count"] == 1
    assert {path.rsplit("/", 1)[1] for path in report["look_alikes"]["examples"][0]} == {"large.jpg", "smaller.jpg"}
    assert report["verdict"] == "unusable" and "2 of 14 images cannot be read (14.29%)" in report["remarks"][0]


@pytest.mark.parametrize(
    ("broken", "share", "verdict"),
    [
        ((), 0.0, "good"),
        ((1,), 0.01, "usable"),
        ((1,), 0.0, "unusable"),
        ((1, 2), 0.1, "usable"),
        ((1, 2), 0.05, "unusable"),
    ],
)
def test_the_verdict_is_that_of_a_run(broken, share, verdict):
    report = Survey(ArraySource(20, frozenset(broken)), 0).report(share)
    assert report["verdict"] == verdict and len(report["unreadable"]) == len(broken)
    assert report["formats"] == {"pixels": 20 - len(broken)} and report["classes"] is None


def test_nothing_readable():
    report = Survey(ArraySource(1, frozenset({0})), 0).report(1.0)
    assert report["verdict"] == "unusable" and "width" not in report


def test_imbalance_and_many_pixels_are_remarked(tmp_path):
    write_images(tmp_path, [f"{n}.png" for n in range(25)])
    (tmp_path / "list.txt").write_text("".join(f"{n}.png {1 if n else 3}\n" for n in range(24)) + "24.png\n")
    report = survey(tmp_path / "list.txt").report(0.01)
    assert report["classes"]["unlabelled"] == 1 and report["classes"]["smallest"] == "3"
    assert "class '1' has 23 times the images of '3'" in report["remarks"]
    assert report["classes"]["images"] == {"1": 23, "3": 1}  # 0 and 2 do not occur
    Image.fromarray(pixels(0, 1500, 2000)).save(tmp_path / "large.png")
    (tmp_path / "list.txt").write_text("large.png\n")
    assert "3.0 megapixels" in survey(tmp_path / "list.txt").report(0.01)["remarks"][0]


def test_copies_between_splits(tmp_path):
    write_images(tmp_path, ["train/a/1.png", "train/a/2.png", "test/a/3.png"])
    (tmp_path / "test" / "a" / "4.png").write_bytes((tmp_path / "train" / "a" / "2.png").read_bytes())
    train, test = (Survey(open_source(str(tmp_path), split), 0) for split in ("train", "test"))
    assert copies_between(train, test) == 1 and copies_between(test, train) == 1


def bits(word):
    return bin(word).count("1")


def test_near_pairs_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 2**64, 300, dtype=np.uint64)
    for n in range(100):
        flips = rng.choice(64, size=n % 6, replace=False)
        looks[200 + n] = looks[n] ^ np.uint64(sum(1 << int(bit) for bit in flips))
    looks[:5] = [0, 1, 2, 2**64 - 1, 2**63]  # flat images are not compared
    words = looks.tolist()
    expected = [
        [a, b]
        for a, b in itertools.combinations(range(300), 2)
        if bits(words[a] ^ words[b]) <= 3 and all(8 <= bits(words[n]) <= 56 for n in (a, b))
    ]
    found = np.concatenate([*near_pairs(looks)])
    assert np.unique(found, axis=0).tolist() == expected and len(expected) > 50
    assert list(near_pairs(looks[:1])) == list(near_pairs(looks[:0])) == []


def test_frames_that_are_all_alike_take_no_memory_for_each_pair():
    class Frames(ArraySource):
        def image(self, index):
            frame = pixels(0)
            frame.flat[index] ^= 1
            return frame

    frames = Survey(Frames(2000), 0)
    tracemalloc.start()
    found = frames.report(0.01)["look_alikes"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["count"] == 1999 and len(found["examples"]) == 5
    assert peak < 1000 * 2000


def test_a_difference_hash_survives_size_and_light_but_not_turning():
    image = np.array(Image.fromarray(pixels(3)).resize((320, 240)))
    smaller = np.array(Image.fromarray(image).resize((160, 120), Image.Resampling.BOX))
    lighter = (image * 0.8 + 20).astype(np.uint8)

    def distance(other):
        return bits(difference_hash(image) ^ difference_hash(other))

    assert distance(smaller) <= 3 and distance(lighter) <= 3 and distance(image[:, ::-1].copy()) > 10


def test_images_that_do_not_use_their_sixteen_bits_are_told(tmp_path):
    for number, bits in enumerate((12, 12, 16)):
        values = (np.arange(4096, dtype=np.uint16).reshape(64, 64) << (bits - 12)) + np.uint16(number)
        Image.fromarray(np.minimum(values, (1 << bits) - 1)).save(tmp_path / f"{number}.png")
    report = survey(tmp_path).report(0.01)
    assert report["modes"] == {"I;16, 12 bits used": 2, "I;16, 16 bits used": 1}
    told = "2 images have 16 bits a channel but no value above 4,095: read as 12-bit, or they would be nearly black"
    assert report["verdict"] == "usable" and told in report["remarks"]
    assert any(remark.startswith("I;16 images are read at 12 and at 16 bits,") for remark in report["remarks"])
