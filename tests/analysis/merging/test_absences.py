"""A screw axis that the space group lacks shows in the axial reflections."""

import numpy as np
import pytest

from spreadflow.analysis.merging.absences import suspected_screws
from spreadflow.analysis.merging.merging import Merged, Unique
from spreadflow.physics import symmetry

CELLS = {
    "P 4 2 2": [92.0, 92.0, 41.0, 90.0, 90.0, 90.0],
    "P 1 2 1": [67.2, 59.8, 47.2, 90.0, 110.3, 90.0],
    "P 6": [80.0, 80.0, 110.0, 90.0, 90.0, 120.0],
}


def merged(group: str, true_group: str, seed: int, sigma: float = 0.02) -> tuple[Merged, Unique]:
    """Return intensities merged in `group` of a crystal of `true_group`."""
    rng = np.random.default_rng(seed)
    unique = Unique(np.array(CELLS[group]), group, 3.0)
    is_centric = unique.friedel == 0
    intensity = np.where(
        is_centric, rng.chisquare(1, len(unique)), rng.exponential(size=len(unique))
    )
    intensity[symmetry.is_absent(unique.hkl, true_group)] = 0.0
    intensity += sigma * rng.standard_normal(len(unique))
    n = np.ones(len(unique), dtype=np.int64)
    half = np.full((len(unique), 2), np.nan)
    return Merged(intensity, np.full(len(unique), sigma), half, n, np.zeros(len(n))), unique


@pytest.mark.parametrize(
    ("group", "true_group", "expected"),
    [
        ("P 4 2 2", "P 41 21 2", [("a", 2), ("c", 4)]),
        ("P 4 2 2", "P 42 2 2", [("c", 2)]),
        ("P 1 2 1", "P 1 21 1", [("b", 2)]),
        ("P 6", "P 61", [("c", 6)]),
        ("P 6", "P 63", [("c", 2)]),
    ],
)
def test_a_screw_axis_that_was_not_asked_for_is_suspected(group, true_group, expected):
    suspects = suspected_screws(*merged(group, true_group, seed=1))
    assert [(suspect.axis, suspect.period) for suspect in suspects] == expected
    assert all(suspect.strength < 0.1 for suspect in suspects)


@pytest.mark.stage
@pytest.mark.parametrize("group", CELLS)
def test_none_is_suspected_where_there_is_none(group):
    n_suspected = sum(len(suspected_screws(*merged(group, group, seed))) for seed in range(100))
    assert n_suspected <= 2


def test_weak_data_say_nothing():
    assert suspected_screws(*merged("P 4 2 2", "P 41 21 2", seed=1, sigma=0.5)) == []


def test_the_condition_in_words():
    suspect = suspected_screws(*merged("P 6", "P 61", seed=2))[0]
    assert suspect.condition() == "0 0 l with l other than 6 n"
