"""The page of performance: it is that of the records, claims nothing else, and shows no speed behind a red gate."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.report import command, html, reading
from benchmarks.report.page import page
from esvit_fast.ops._core.proven import PROVEN

from .. import paper

ROOT = Path(__file__).parents[3]


def test_the_page_is_that_of_the_committed_records():
    assert command.main(["check"]) == 0, "python -m benchmarks.report write"


def test_another_page_is_found(tmp_path, monkeypatch):
    other = tmp_path / "performance.md"
    other.write_text("fast\n")
    monkeypatch.setattr(command, "PAGE", other)
    assert command.main(["check"]) == 1
    assert command.main(["write"]) == 0 and command.main(["check"]) == 0
    assert other.read_text() == (ROOT / "docs" / "performance.md").read_text()


def test_without_a_record_of_a_gpu_the_page_says_so(tmp_path):
    assert "No kernel of this library has run on a GPU yet" in page(reading.read())
    text = page(reading.read(paper.everything(tmp_path)))
    assert "has run on a GPU yet" not in text
    assert "| NVIDIA Paper, 139 GiB, sm_90 | ccccccc | `window_attention` | green | not run |" in text
    assert "| NVIDIA Paper, 139 GiB, sm_90 | ccccccc | `soft_cross_entropy` | not run | not run |" in text


def test_a_device_has_its_numbers_floors_and_spaces(tmp_path):
    text = page(reading.read(paper.everything(tmp_path)))
    row = next(line for line in text.splitlines() if line.startswith("| swin_t 224 stage 1"))
    assert row == (
        "| swin_t 224 stage 1 | 64 | bfloat16 | esvit_fast triton | 51.0 us | 117 us | 240 us (torch.compile) | "
        "520 us (torch.compile) | 4.71 / 4.44 | 1.42 / 1.87 |"
    )
    assert "batch 64, views 2 x 224 + 8 x 96, bf16" in text and "| esvit_fast | 239 ms | 232 ms to 251 ms |" in text
    assert "driver 580.1" in text and "Not measured here: the loss over prototypes" in text


@pytest.mark.parametrize("gate", ["tests", "sanitizer"])
def test_no_speed_behind_a_red_gate(tmp_path, gate):
    """Of the operator whose tests failed at that commit, and of a step, which needs all of them."""
    paper.everything(tmp_path)
    red = paper.gates("window_attention", "fail") | {"tool": "racecheck", "case": "the race"}
    paper.write(tmp_path, **{gate: [red]})
    entries = reading.read(tmp_path)
    text = page(entries)
    assert "esvit_fast triton | gate fail: red in the race | gate fail: red in the race |" in text
    assert "4.71" not in text and "239 ms" not in text and "812 ms" in text
    lines = [line for line in reading.digest(entries) if "esvit_fast" in line]
    assert lines and all("gate fail: red in the race" in line and "fastest" not in line for line in lines)


@pytest.mark.parametrize("stem", ["window_attention", "linear"])
def test_no_speed_of_a_layer_behind_a_red_test_of_its_operators(tmp_path, stem):
    """Its attention, and its projections."""
    layer = paper.kernels()
    for row in layer["contestants"].values():
        row |= {"training": row.pop("backward")} if "backward" in row else {}
    (fast,) = [
        line
        for line in reading.digest(reading.read(paper.write(tmp_path, window_attention=[layer])))
        if "training" in line
    ]
    assert "4.44x the fastest peer" in fast
    red = reading.digest(reading.read(paper.write(tmp_path, tests=[paper.gates(stem, "fail")])))
    assert [line for line in red if "training" in line and f"gate fail: red in tests/ops/test_{stem}_gpu.py" in line]
    assert not any("fastest peer" in line for line in red)


def test_a_red_gate_of_another_commit_or_one_that_was_mended_does_not_count(tmp_path):
    paper.everything(tmp_path)
    elsewhere = paper.gates("window_attention", "fail", commit="d" * 40)
    mended = [paper.gates("window_attention", "fail"), paper.gates("window_attention")]
    for records in ([elsewhere], mended):
        entries = reading.read(paper.write(tmp_path, tests=records))
        assert "4.71 / 4.44" in page(entries)


def test_a_contestant_that_failed_has_neither_time_nor_comparison(tmp_path):
    record = paper.kernels()
    record["contestants"]["esvit_fast triton"] = {"gate": "fail", "error": 3.0}
    paper.write(tmp_path, kernels=[record])
    (entry,) = reading.read(tmp_path)
    found = {line.name: line for line in reading.lines([entry], entry, "forward")}
    assert found["esvit_fast triton"].p50 is None and found["esvit_fast triton"].times is None
    assert found["sdpa"].p50 == 0.31 and found["sdpa"].times is None


def test_floors_are_those_of_the_reference():
    """Window attention of stage 1, bfloat16, 64 images, at 4.3 TB/s: 35.8 and 62.7 us."""
    kernels, ceilings = (
        reading.Entry("gpu", *of) for of in (("kernels", paper.kernels()), ("ceilings", paper.ceilings()))
    )
    assert reading.floor([kernels], kernels, "forward") is None
    assert round(1e3 * reading.floor([kernels, ceilings], kernels, "forward"), 1) == 35.8
    assert round(1e3 * reading.floor([kernels, ceilings], kernels, "backward"), 1) == 62.7


def test_the_newest_record_counts(tmp_path):
    slow, fast = paper.kernels(scale=2.0), paper.kernels()
    paper.write(tmp_path, kernels=[fast, paper.kernels("swin_t 224 stage 2"), slow])
    assert len(reading.newest(reading.read(tmp_path))) == 2
    assert "102 us" in page(reading.read(tmp_path)) and "| 51.0 us | 117 us | 240 us (torch.compile) |" in page(
        reading.read(tmp_path)
    )


def test_records_of_a_battery_are_taken_once(tmp_path):
    out, kept = tmp_path / "out", tmp_path / "kept"
    paper.everything(out / "records")
    assert len(command.add(out, kept)) == 4
    before = reading.read(kept)
    assert before == reading.read(out / "records") and command.add(out, kept) == []
    paper.write(out / "records", step=[paper.step() | {"dirty": True}])
    with pytest.raises(ValueError, match="a record of step is of no commit; commit, and measure again"):
        command.add(out, kept)
    assert reading.read(kept) == before


def test_what_is_proven_has_a_record(tmp_path):
    """A kernel is only chosen by itself where a record shows that it ran."""
    shown = reading.proven(reading.read())
    assert all(capabilities <= shown.get(name, set()) for name, capabilities in PROVEN.items())
    paper.write(tmp_path, tests=[paper.gates("window_attention"), paper.gates("region_match", "fail")])
    assert reading.proven(reading.read(tmp_path)) == {("window_attention", "triton"): {(9, 0)}}


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.links = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_whole_and_loads_nothing(tmp_path):
    paper.everything(tmp_path / "records")
    written = html.write(reading.read(tmp_path / "records") + reading.read(), tmp_path)
    assert written[0] == tmp_path / "report.html" and all(path.stat().st_size > 10_000 for path in written)
    text = written[0].read_text()
    tags = Tags()
    tags.feed(text)
    assert not tags.open and not tags.links and "http" not in text
    assert "NVIDIA Paper, 139 GiB, sm_90" in text and "AMD EPYC" in text
    assert text.count(" floor ") == 6 and "flex attention: gate failed, error 3.2 of what is allowed" in text


def test_a_style_sheet_has_no_string_over_two_lines():
    """A browser leaves out what follows, without a word."""
    from benchmarks.report.html import CSS
    from esvit_fast.reporting.style import CSS as BASE

    assert all(line.count('"') % 2 == 0 for line in (BASE + CSS).splitlines())


def numbers(tree, keys, below=False):
    """What a record has below some keys."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from numbers(value, keys, below or key in keys)
    elif below and isinstance(tree, int | float) and not isinstance(tree, bool):
        yield tree


NUMBER = r"([\d,]*\d(?:\.\d+)?)"
FIGURE = re.compile(rf"(?<![\w.]){NUMBER} ?(ms|s|MiB|min|%)(?!\w)(?: instead of {NUMBER}(?![\d.]| ?[a-z%]))?")
UNITS = {
    "ms": (1.0, ("p50",)),
    "s": (1e-3, ("p50",)),
    "MiB": (2.0**-20, ("peak_bytes",)),
    "min": (1 / 60, ("train_seconds",)),
    "%": (1.0, ("knn", "linear")),
}
"""What a number of a record is multiplied by, and below which keys it may stand."""
COMPUTED = {("91", "%"), ("70", "%"), ("114", "%")}
"""Shares of a time, or of what is saved of it, each from two numbers of a record: 58 to 91, 48 to 70, 83 to 114 %."""


def test_every_figure_of_the_readme_is_in_a_record():
    """To the digits that are written: times, memory and accuracies of what was measured."""
    records = [entry.record for entry in reading.read()]
    known = {
        unit: {factor * n for record in records for n in numbers(record, keys)}
        for unit, (factor, keys) in UNITS.items()
    }
    figures = list(FIGURE.finditer((ROOT / "README.md").read_text()))
    found = [(figure, match[2]) for match in figures for figure in (match[1], match[3]) if figure]
    assert len(found) > 20 and ("1,728", "ms") in found
    for figure, unit in set(found) - COMPUTED:
        value, digits = float(figure.replace(",", "")), len(figure.partition(".")[2])
        assert value in {round(number, digits) for number in known[unit]}, f"{figure} {unit}"


def test_the_readme_names_the_page():
    assert "(docs/performance.md)" in (ROOT / "README.md").read_text()
