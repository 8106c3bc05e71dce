"""What the tables of benchmarks and the report say in the same words. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def ours(name: str) -> bool:
    """Whether a contestant is this library, or has a part of it."""
    return "esvit_fast" in name or "our " in name


def without_times(row: Mapping) -> str:
    """What a table says of a contestant that was not timed."""
    return f"{row['gate']}: {row.get('why') or row['error']}"


def mebibytes(size: float) -> str:
    """As tables have it: 131 MiB."""
    return f"{size / 2**20:.0f} MiB"


def milliseconds(value: float) -> str:
    """A time with three digits: 41.2 us, 0.827 s."""
    for unit, size in (("s", 1e3), ("ms", 1.0), ("us", 1e-3)):
        if value >= size * (1 if unit != "us" else 0):
            number = value / size
            digits = 0 if number >= 100 else 1 if number >= 10 else 2
            return f"{number:,.{digits}f} {unit}"
    raise ValueError(f"value={value} must not be negative")


def operator_table(title: str, record: Mapping, modes: Sequence[str]) -> str:
    """A record of an operator alone: a line for each contestant, with its times; whoever failed the gate has none."""
    lines = [title, f"  {'':18} {' '.join(f'{mode:>11}' for mode in modes)} {'peak':>9} launches  gate"]
    for name, row in record["contestants"].items():
        if modes[-1] not in row:
            lines.append(f"  {name:18} {without_times(row)}")
            continue
        times = " ".join(f"{milliseconds(row[mode]['p50']):>11}" for mode in modes)
        lines.append(
            f"  {name:18} {times} {mebibytes(row['peak_bytes']):>9} {row.get('launches') or '-':>8}  "
            f"{row['error']:.2f} of what is allowed"
        )
    return "\n".join(lines)
