"""Words for people."""

import pytest

from esvit_fast.text import counted


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), (1234, "1,234 steps"), (-1, "-1 steps")]
)
def test_a_number_with_its_noun(number, words):
    assert counted(number, "step") == words


def test_a_plural_of_its_own():
    assert counted(1, "class", "classes") == "1 class" and counted(3, "class", "classes") == "3 classes"
