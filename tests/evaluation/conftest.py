"""What the tests of this folder register is gone after each of them."""

import pytest

from .stand_ins import registering


@pytest.fixture
def register():
    """Registers protocols and kinds of targets for a test alone."""
    with registering() as add:
        yield add
