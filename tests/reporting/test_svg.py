import base64
import io
import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from esvit_fast.reporting.svg import Bar, Mark, Series, bar_chart, data_uri, line_chart, nice_ticks, short, thin


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_even_and_enclose(low, extent):
    high = low + extent
    ticks = nice_ticks(low, high)
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + 1e-6 * step
    assert ticks[-1] >= high - 1e-6 * step
    assert 2 <= len(ticks) <= 8
    assert all(abs(b - a - step) < 1e-6 * abs(step) + 1e-9 for a, b in pairwise(ticks))


def test_ticks_of_known_ranges():
    assert nice_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert nice_ticks(0.12, 0.31, 4) == [0.1, 0.15, 0.2, 0.25, 0.3, 0.35]
    for low, high in ((3, 3), (879609.9999999999, 879609.9999999999 + 1e-6)):
        assert nice_ticks(low, high)[0] < low <= high < nice_ticks(low, high)[-1]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1_500_000, "1.5M"), (20_000, "20k"), (0.00025, "2.5e-4"), (0.996, "0.996"), (-3.5, "-3.5")],
)
def test_short(value, text):
    assert short(value) == text


def paths(figure):
    return [[tuple(map(float, p.split())) for p in d.split("L")] for d in re.findall(r' d="M([^"]+)"', figure)]


def test_curves_are_placed_by_their_axes_and_gaps_are_left():
    figure = line_chart("T", [Series("a", [0, 50, 100, 150, 200], [0, 10, math.nan, 10, 0])], marks=[Mark("limit", 5)])
    ElementTree.fromstring(figure)
    first, second = paths(figure)
    assert len(first) == len(second) == 2
    assert first[0][0] == 44
    assert second[1][0] == 352
    assert first[0][1] == second[1][1] == 178  # y = 0 at the bottom
    assert first[1][1] == 10  # y = 10 at the top
    assert re.search(r'class="mark"[^>]*y1="94.0"', figure)
    assert "limit" in figure


def test_text_is_escaped_and_a_legend_names_several_curves():
    figure = line_chart("a < b", [Series("x & y", [1], [2]), Series("z", [1], [3])], note="<i>")
    ElementTree.fromstring(figure)
    assert "x &amp; y" in figure
    assert "&lt;i&gt;" in figure
    assert figure.count("<li ") == 2
    assert figure.count("<circle") == 2


def test_long_curves_become_bucket_means():
    long = Series("a", list(range(1000)), [math.nan if i == 3 else float(i) for i in range(1000)])
    short_one = thin(long, 100)
    assert len(short_one.x) == 100
    assert short_one.y[0] == pytest.approx(np.mean([0, 1, 2, 4, 5, 6, 7, 8, 9]))
    assert short_one.y[-1] == pytest.approx(994.5)


def test_a_chart_without_points_is_refused():
    with pytest.raises(ValueError, match="series of chart 'T' have no finite point"):
        line_chart("T", [Series("a", [1, 2], [math.nan, math.inf])])


def test_bars_have_the_length_of_their_values():
    html = bar_chart([Bar("one", 25, "before"), Bar("two", 140, "after")], mark=Mark("chance", 10))
    ElementTree.fromstring(html)
    assert re.findall(r"width:([\d.]+)%", html) == ["25.00", "100.00"]
    assert html.count("left:10.00%") == 2


@pytest.mark.parametrize(("side", "kind", "tolerance"), [(32, "png", 0), (128, "jpeg", 12)])
def test_data_uri_holds_the_picture(side, kind, tolerance):
    image = np.linspace(0, 255, side * side * 3).reshape(side, side, 3).astype(np.uint8)
    head, body = data_uri(image).split(",")
    assert head == f"data:image/{kind};base64"
    back = np.array(Image.open(io.BytesIO(base64.b64decode(body))))
    assert np.abs(back.astype(int) - image).max() <= tolerance
