"""Charts and pictures as text: inline SVG that follows the page's colours, and images as data URIs."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 360, 214
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 10, 36
POINTS = 400
"""Curves with more points are averaged in this many buckets."""
DOTS = 12
"""Curves of at most so many points have dots."""


class Series(NamedTuple):
    """One curve. Points that are not finite leave a gap."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


class Mark(NamedTuple):
    """A horizontal line with a name."""

    label: str
    y: float


class Bar(NamedTuple):
    """One row of a bar chart; `tone` is a CSS class: before, after or plain."""

    label: str
    value: float
    tone: str


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) that enclose [low, high]."""
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        low, high = (low - 0.5, high + 0.5) if low == 0 else (low - abs(low) / 10, high + abs(high) / 10)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def short(value: float) -> str:
    """A number for an axis or a table: 1500000 as 1.5M, 0.00025 as 2.5e-4."""
    size = abs(value)
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{value / unit:.4g}{letter}"
    if size and size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def thin(series: Series, points: int = POINTS) -> Series:
    """At most `points` points: averages of neighbouring ones, leaving out those that are not finite."""
    x, y = np.asarray(series.x, dtype=float), np.asarray(series.y, dtype=float)
    if len(x) <= points:
        return series
    buckets = np.array_split(np.arange(len(x)), points)
    means = [y[part][np.isfinite(y[part])] for part in buckets]
    return Series(series.label, [x[p].mean() for p in buckets], [m.mean() if len(m) else math.nan for m in means])


class Plane(NamedTuple):
    """Maps data to the coordinates of a chart."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        """Distance from the left."""
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Distance from the top."""
        return HEIGHT - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str = "",
    y_label: str = "",
    marks: Sequence[Mark] = (),
    note: str = "",
) -> str:
    """A figure with axes, up to five curves, their legend, and named horizontal lines; short curves have dots.

    Raises:
        ValueError: no curve has a finite point.
    """
    series = [thin(one) for one in series]
    points = [(x, y) for one in series for run in _runs(one) for x, y in run]
    if not points:
        raise ValueError(f"series of chart {title!r} have no finite point; leave the chart out")
    xs, ys = [x for x, _ in points], [y for _, y in points] + [mark.y for mark in marks]
    ticks, x_low, x_high = nice_ticks(min(ys), max(ys), 4), min(0, *xs), max(xs)
    plane = Plane(x_low, x_high if x_high > x_low else x_low + 1, ticks[0], ticks[-1])
    body = [*_axes(plane, ticks, x_label), *_marks(plane, marks)]
    for number, one in enumerate(series, start=1):
        body += _curve(plane, one, f"s{number}")
    keys = "".join(f'<li class="s{n}">{escape(one.label)}</li>' for n, one in enumerate(series, start=1))
    caption = f"<b>{escape(title)}</b><small>{escape(y_label)}</small>{f'<ul>{keys}</ul>' if len(series) > 1 else ''}"
    drawing = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(body)}</svg>'
    text = f"<p>{escape(note)}</p>" if note else ""
    return f'<figure class="chart"><figcaption>{caption}</figcaption>{drawing}{text}</figure>'


def _axes(plane: Plane, ticks: Sequence[float], x_label: str) -> Iterator[str]:
    for tick in ticks:
        y = plane.y(tick)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>'
    for tick in nice_ticks(plane.x_low, plane.x_high, 4):
        if plane.x_low <= tick <= plane.x_high:
            place = f'x="{plane.x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle"'
            yield f'<text class="tick" {place}>{short(tick)}</text>'
    yield f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>'


def _marks(plane: Plane, marks: Sequence[Mark]) -> Iterator[str]:
    for mark in marks:
        y, right = plane.y(mark.y), WIDTH - RIGHT
        yield f'<line class="mark" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="mark" x="{right - 4}" y="{y - 5:.1f}" text-anchor="end">{escape(mark.label)}</text>'


def _curve(plane: Plane, series: Series, css: str) -> Iterator[str]:
    for run in _runs(series):
        places = [(plane.x(x), plane.y(y)) for x, y in run]
        yield f'<path class="curve {css}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in places)}"/>'
        if len(run) == 1 or len(series.x) <= DOTS:
            for x, y in places:
                yield f'<circle class="dot {css}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'


def bar_chart(bars: Sequence[Bar], *, high: float = 100.0, unit: str = "%", mark: Mark | None = None) -> str:
    """Horizontal bars from 0 to `high`, each with its name and value; `mark` is a vertical line, such as chance."""
    rows = []
    for bar in bars:
        share = 100 * min(max(bar.value / high, 0), 1)
        line = f'<i class="mark" style="left:{100 * mark.y / high:.2f}%"></i>' if mark else ""
        rows.append(
            f'<div class="bar {bar.tone}"><span>{escape(bar.label)}</span>'
            f'<div class="track"><i class="fill" style="width:{share:.2f}%"></i>{line}</div>'
            f"<b>{bar.value:.1f}<small> {escape(unit)}</small></b></div>"
        )
    note = f'<p class="note"><i class="mark"></i> {escape(mark.label)} {mark.y:.3g} {escape(unit)}</p>' if mark else ""
    return f'<div class="bars">{"".join(rows)}{note}</div>'


def data_uri(image: np.ndarray) -> str:
    """An image uint8 [H, W, 3] as a data URI: PNG up to 96 pixels, JPEG of quality 88 above."""
    picture, buffer = Image.fromarray(np.ascontiguousarray(image)), io.BytesIO()
    kind = "png" if is_small(image) else "jpeg"
    picture.save(buffer, format=kind, **({"optimize": True} if kind == "png" else {"quality": 88}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def img(image: np.ndarray, alt: str) -> str:
    """An <img> of uint8 [H, W, 3]; small images are enlarged without smoothing."""
    css = ' class="pixel"' if is_small(image) else ""
    return f'<img{css} src="{data_uri(image)}" alt="{escape(alt)}">'


def is_small(image: np.ndarray) -> bool:
    """Whether an image [H, W, 3] has at most 96 pixels a side: stored without loss, enlarged without smoothing."""
    return max(image.shape[:2]) <= 96


def _runs(series: Series) -> list[list[tuple[float, float]]]:
    """The stretches of a curve between points that are not finite."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(series.x, series.y, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]
