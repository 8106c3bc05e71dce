"""The benchmark of the loader: who passes its gate, who does not, and what a record has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from benchmarks.report.page import page
from benchmarks.systems import loader as benchmark
from esvit_fast.config import CropConfig
from esvit_fast.data import open_source

pytestmark = pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")  # torch's own


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Smooth colours and noise, so that a blur is seen, as JPEG files."""
    root, g = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(24):
        coarse = Image.fromarray(g.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((120, 90), Image.Resampling.BICUBIC)).astype(float)
        noisy = (smooth + g.normal(0, 25, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(root / f"{number:02}.jpg", quality=92)
    return str(root)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    crops = CropConfig(global_size=48, local_sizes=(24,), local_counts=(2,))
    monkeypatch.setattr(benchmark, "CONFIG", replace(benchmark.CONFIG, crops=crops))
    yield
    benchmark.by_pillow.cache_clear()


@pytest.mark.parametrize("name", [*benchmark.CONTESTANTS])
def test_who_makes_the_published_views_passes(photographs, name, monkeypatch):
    monkeypatch.setattr(benchmark, "GPU", "cpu")  # which decodes what is left to a GPU
    assert benchmark.gate(name, open_source(photographs), 8) <= 1


@pytest.mark.parametrize("left_out", ["GaussianBlur", "RandomResizedCrop", "ColorJitter"])
def test_a_transform_that_does_less_fails(photographs, monkeypatch, left_out):
    easier = {
        "GaussianBlur": lambda *_: v2.Identity(),
        "RandomResizedCrop": lambda size, *_, **__: v2.CenterCrop(size),
        "ColorJitter": lambda *_: v2.Grayscale(3),
    }
    monkeypatch.setattr(v2, left_out, easier[left_out])
    assert benchmark.gate("torchvision v2", open_source(photographs), 8) > 1


@pytest.mark.parametrize("name", ["esvit_fast views", "esvit_fast crops", *benchmark.FOR_GPUS])
def test_views_of_other_boxes_fail(photographs, monkeypatch, name):
    monkeypatch.setattr(benchmark, "GPU", "cpu")
    boxes = benchmark.crop_boxes
    monkeypatch.setattr(benchmark, "crop_boxes", lambda *a: boxes(*a)[::-1])
    assert benchmark.gate(name, open_source(photographs), 8) > 1


def test_a_record_has_everyone_and_its_page_says_who_gives_crops(photographs):
    names = ["published", "esvit_fast views", "esvit_fast crops"]
    record = benchmark.measure(photographs, names, 8, 2)
    assert record["shape"] == {"images": 24, "batch": 8, "views": {"48": 2, "24": 2}}
    rows, text = record["contestants"], benchmark.table(record)
    assert [*rows] == names and all(row["gate"] == "pass" for row in rows.values())
    assert rows["published"]["images_per_s"] == pytest.approx(24e3 / rows["published"]["load"]["p50"], abs=0.1)
    assert "24 images to 2 x 48 + 2 x 24 px" in text and "1.00x" in text
    assert "note" in rows["esvit_fast crops"] and "note" not in rows["esvit_fast views"]
    shown = page([benchmark_entry(record)])
    assert "From files to views" in shown and "esvit_fast crops: crops and draws" in shown


def benchmark_entry(record):
    from benchmarks.report.reading import Entry

    return Entry("cpu", "loader", record | {"commit": "c" * 40, "dirty": False})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nowhere", "data.source='nowhere' does not exist"),
        ("sample:20", "--data sample:20 has no encoded images; pass a folder"),
        (None, "--batch 32 is larger than the data, which has 24 images"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(photographs, data, message):
    with pytest.raises(SystemExit, match=message) as caught:
        benchmark.measure(data or photographs, ["published"], 32 if data is None else 8, 2)
    assert "\n" not in str(caught.value)
    with pytest.raises(SystemExit, match="needs an NVIDIA GPU"):
        benchmark.measure(photographs, [*benchmark.FOR_GPUS], 8, 2)
    assert torch.get_num_threads() == 1
