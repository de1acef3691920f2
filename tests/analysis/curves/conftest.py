"""What the tests of curves share: crystals whose model is wrong, and lattices of them."""

import pytest

import drawn


@pytest.fixture(scope="session")
def wrong() -> drawn.Wrong:
    """A crystal of P 21 21 21 with |F| of 38 e, of which the model misses 8 e."""
    return drawn.wrong(drawn.orthorhombic(), 8.0)


@pytest.fixture(scope="session")
def few(wrong):
    """Twelve of its lattices, and their pulses."""
    return wrong.crystal.lattices(12, 3)
