"""Multiples and fractions of a cell, by the nodes that carry spots."""

import numpy as np
import pytest

from spreadflow.analysis.merging import translations
from spreadflow.physics import symmetry

HKL = np.random.default_rng(0).integers(-9, 10, (400, 3))
"""Nodes of a primitive lattice."""

OFFSETS = np.random.default_rng(1).normal(0.0, 0.03, (400, 3))
"""Errors of indices."""


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ([1, 1, 1], []),
        ([2, 1, 1], ["1/2 a"]),
        ([1, 1, 3], ["1/3 c"]),
        ([2, 2, 1], ["1/2 a", "1/2 b", "1/2 a + 1/2 b"]),
    ],
)
def test_a_cell_that_is_too_large_is_told(factors, expected):
    """Along a doubled axis there is no spot with an odd index, but for a few false ones."""
    hkl = HKL * factors
    hkl[:4] += 1
    suspects = translations.superfluous_nodes(hkl, "P 1 2 1")
    assert [translation.of_axes() for translation in suspects] == expected


def test_a_centred_lattice_is_told_where_the_group_has_none():
    hkl = HKL[~symmetry.is_centring_absent(HKL, "C 1 2 1")]
    (suspect,) = translations.superfluous_nodes(hkl, "P 1 2 1")

    assert suspect.of_axes() == "1/2 a + 1/2 b"
    assert translations.superfluous_nodes(hkl, "C 1 2 1") == []


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ([1 / 2, 0, 0], "h + 1/2, k, l"),
        ([0, 0, -1 / 3], "h, k, l + 1/3"),
        ([1 / 2, 1 / 2, 0], "h + 1/2, k + 1/2, l"),
    ],
)
def test_a_cell_that_is_too_small_is_told(offset, expected):
    missing = translations.missing_nodes(HKL + offset + OFFSETS, "P 1")
    assert missing.of_indices() == expected
    assert missing.share > 0.95


def test_a_primitive_lattice_is_told_where_the_group_is_centred():
    is_absent = symmetry.is_centring_absent(HKL, "C 1 2 1")
    missing = translations.missing_nodes((HKL + OFFSETS)[is_absent], "C 1 2 1")
    assert missing.of_indices() == "h + 1, k, l"


def test_spots_anywhere_tell_nothing():
    anywhere = np.random.default_rng(2).uniform(-9, 9, (1000, 3))
    assert translations.missing_nodes(anywhere, "P 1") is None
    assert translations.missing_nodes(HKL[:20] + 0.5, "P 1") is None
