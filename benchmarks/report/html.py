"""report.html and report.png: what was measured, in one file that needs nothing else, with floors beside the bars."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path

from benchmarks.measuring.words import milliseconds, ours
from benchmarks.report.page import titles
from benchmarks.report.reading import Entry, Line, by_file, devices, floor, lines, name_of, newest, short
from esvit_fast.reporting.style import CSS as BASE
from esvit_fast.reporting.svg import Bar, Mark, bar_chart

CSS = """
section > h2 { margin-bottom: 12px; }
.bar { grid-template-columns: 148px 1fr 88px; }
.bar > span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.cards { grid-template-columns: repeat(auto-fill, minmax(400px, 1fr)); }
.card h4 { margin: 14px 0 8px; color: var(--muted); font-size: 12px; font-weight: 500; }
.card h3 { font-size: 16px; }
.card .gain { float: right; color: var(--good); font-size: 20px; font-weight: 700; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.card .gain.down { color: var(--muted); } .card .gain small { color: var(--muted); font-size: 12px; font-weight: 400; }
.red { color: var(--bad); } .note { margin-top: 8px; }
h2.device { margin-top: 64px; padding-top: 26px; border-top: 1px solid var(--line); font-size: 28px; }
.gates { display: flex; flex-wrap: wrap; gap: 8px; margin: 0; padding: 0; list-style: none; font-size: 13px; }
.gates li { padding: 4px 12px; border: 1px solid var(--line); border-radius: 99px; background: var(--card); }
.gates li::before { content: ""; display: inline-block; width: 8px; height: 8px; margin-right: 8px;
  border-radius: 50%; background: var(--good); }
.gates li.fail::before { background: var(--bad); } .gates li.absent::before { background: var(--before); }
@media (max-width: 700px) { .cards { grid-template-columns: 1fr; } .bar { grid-template-columns: 104px 1fr 84px; } }
"""
LEAD = (
    "Medians of interleaved runs; bars of one card share their scale. Who fails its gate has no bar. "
    "The dashed line is the least time that this device could take, by its own copying and multiplying speed."
)


def write(entries: Sequence[Entry], out: Path) -> list[Path]:
    """Write both, the picture only where matplotlib is installed and something was measured."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "report.html"
    path.write_text(html(entries), encoding="utf-8")
    shown = [entry for entry in newest(entries) if entry.file in by_file()]
    if find_spec("matplotlib") is None or not shown:
        return [path]
    return [path, picture(entries, out / "report.png")]


def html(entries: Sequence[Entry]) -> str:
    """The page, as text."""
    body = [_device(entries, device) for device in devices(entries)]
    title = "What was measured"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{BASE}{CSS}</style></head>\n<body><header>"
        f'<p class="kicker">esvit_fast &middot; benchmarks</p><h1>{title}</h1><p class="lead">{LEAD}</p></header>'
        f"<main>{''.join(body) or '<section><p>There are no records.</p></section>'}</main>"
        "<footer>Written by esvit_fast. It loads nothing from elsewhere.</footer></body></html>\n"
    )


def _device(entries: Sequence[Entry], device: str) -> str:
    here = [entry for entry in newest(entries) if entry.device == device]
    environment = here[-1].record["environment"]
    name = name_of(environment)
    ceilings = [entry.record for entry in here if entry.file == "ceilings"]
    facts = {"torch": environment["torch"], "triton": environment.get("triton") or "not installed"}
    card = here[-1].record.get("card") or {}
    facts |= {"driver": card["driver"]} if "driver" in card else {}
    if ceilings:
        facts["copy"] = f"{ceilings[-1]['bytes_per_s'] / 1e12:.2f} TB/s"
        facts["product in bfloat16"] = f"{ceilings[-1]['flop_per_s'] / 1e12:.0f} TFLOP/s"
    facts["commit"] = ", ".join(dict.fromkeys(short(e.record.get("commit")) for e in here))
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    gates = [entry.record for entry in here if entry.file in ("tests", "sanitizer")]
    marks = "".join(f'<li class="{r["gate"]}">{escape(r["case"])}</li>' for r in gates)
    sections = [f'<h2 class="device">{escape(name)}</h2><dl class="facts">{items}</dl>']
    sections += [f'<section><h2>Tests and sanitizer</h2><ul class="gates">{marks}</ul></section>'] if gates else []
    for file, title in titles().items():
        of = [entry for entry in here if entry.file == file and file in by_file()]
        if of:
            cards = "".join(_card(entries, entry) for entry in of)
            sections.append(f'<section><h2>{escape(title)}</h2><div class="cards">{cards}</div></section>')
    return "".join(sections)


def _card(entries: Sequence[Entry], entry: Entry) -> str:
    record, body, gain, missing = entry.record, [], "", {}
    for mode in by_file()[entry.file].modes:
        found, least = lines(entries, entry, mode), floor(entries, entry, mode)
        timed = [line for line in found if line.p50 is not None]
        missing |= {line.name: line for line in found if line.p50 is None}
        best = max((line.times for line in timed if line.times and line.name.startswith("esvit_fast")), default=None)
        if best:
            down = "" if best >= 1 else " down"
            gain = f'<span class="gain{down}">{best:.2f}<small>&times; the fastest peer, {mode}</small></span>'
        if not timed:
            continue
        high, unit, size = _scale(max(line.p50 for line in timed), min(line.p50 for line in timed))
        bars = [Bar(line.name, line.p50 / size, _tone(line, found)) for line in timed]
        mark = Mark("floor", least / size) if least else None
        body.append(f"<h4>{mode}</h4>{bar_chart(bars, high=high / size, unit=unit, mark=mark)}")
    shape = record["shape"]
    many = f", {shape['prototypes']:,} prototypes" if "prototypes" in shape else ""
    what = f"{shape['batch']} images{many}, {record['dtype'].removeprefix('torch.')}"
    notes = "".join(f'<p class="note{_red(line)}">{escape(_why(line))}</p>' for line in missing.values())
    return (
        f'<div class="card">{gain}<h3>{escape(record["case"])}</h3><p class="note">{escape(what)}</p>'
        f"{''.join(body)}{notes}</div>"
    )


def _scale(longest: float, shortest: float) -> tuple[float, str, float]:
    """The right end of an axis in milliseconds, and a unit and its size in which the shortest has digits to show."""
    unit, size = ("s", 1e3) if shortest >= 1e3 else ("ms", 1.0) if shortest >= 1 else ("us", 1e-3)
    return longest * 1.02, unit, size


def _tone(line: Line, found: Sequence[Line]) -> str:
    return "after" if ours(line.name) else "before" if line.name == found[0].name else "plain"


def _red(line: Line) -> str:
    return " red" if line.gate == "fail" else ""


def _why(line: Line) -> str:
    return f"{line.name}: {'gate failed, ' if line.gate == 'fail' else ''}{line.why}"


def picture(entries: Sequence[Entry], path: Path) -> Path:
    """The longest mode of every case as bars, with floors; of the device that comes first."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    device = devices([entry for entry in entries if entry.file in by_file()])[0]
    shown = [entry for entry in newest(entries) if entry.device == device and entry.file in by_file()]
    order = list(titles())
    shown = sorted(shown, key=lambda entry: order.index(entry.file))[:12]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5.2 * columns, 2.9 * rows), squeeze=False, facecolor="#f7f6f2")
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis, entry in zip(axes.flat, shown, strict=False):
        mode = by_file()[entry.file].modes[-1]
        found = [line for line in lines(entries, entry, mode) if line.p50 is not None][::-1]
        colors = ["#0b7a6f" if ours(line.name) else "#a9afba" for line in found]
        bars = axis.barh([line.name for line in found], [line.p50 for line in found], color=colors, height=0.56)
        axis.bar_label(bars, [milliseconds(line.p50) for line in found], padding=4, fontsize=8, color="#4b5565")
        least = floor(entries, entry, mode)
        if least:
            axis.axvline(least, color="#d1495b", linestyle="--", linewidth=1.2)
            axis.annotate(
                f"floor {milliseconds(least)}",
                (least, -0.8),
                (6, 1),
                textcoords="offset points",
                color="#d1495b",
                fontsize=7.5,
            )
        axis.set_xlim(0, 1.24 * max((line.p50 for line in found), default=1))
        axis.set_ylim(-0.8, len(found) - 0.4)
        axis.set_title(f"{entry.record['case']}, {mode}", loc="left", fontsize=10, fontweight="bold", color="#1b2330")
        axis.set_xticks([])
        axis.tick_params(axis="y", length=0, labelsize=8.5, labelcolor="#4b5565")
        axis.set_facecolor("#f7f6f2")
        for side in axis.spines.values():
            side.set_visible(False)
    environment = shown[-1].record["environment"]
    name = name_of(environment)
    figure.suptitle(f"esvit_fast on {name}", x=0.012, ha="left", fontsize=13, fontweight="bold", color="#1b2330")
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
