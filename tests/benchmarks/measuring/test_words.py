"""What tables say in the same words."""

from __future__ import annotations

import pytest

from benchmarks.measuring.words import milliseconds


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0062, "6.20 us"), (0.117, "117 us"), (1.0, "1.00 ms"), (45.84, "45.8 ms"), (8245.4, "8.25 s")],
)
def test_times_are_written_with_three_digits(value, text):
    assert milliseconds(value) == text
