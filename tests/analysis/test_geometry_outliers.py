"""Which lattices are unlike the others: limits against what pure chance gives, and single wrong
cases.
"""

import numpy as np
import pytest

from spreadflow.analysis import geometry_outliers
from spreadflow.analysis.geometry_outliers import Cut, Evidence


def evidence_of(n: int, seed: int = 0) -> Evidence:
    """Return evidence of n lattices of 60 spots with normal residuals."""
    rng = np.random.default_rng(seed)
    z2 = (rng.normal(size=(n, 60, 2)) ** 2).sum(axis=2)
    move = (rng.normal(size=(n, 3)) ** 2).sum(axis=1)
    is_beyond = z2 > 9.21
    return Evidence(
        inside=(~is_beyond).sum(axis=1),
        beyond=is_beyond.mean(axis=1),
        size=np.median(z2, axis=1),
        move=move,
    )


def test_none_of_a_thousand_good_lattices_is_beyond():
    evidence = evidence_of(1000)
    limits = geometry_outliers.limits(evidence, 3, 10)
    for row in zip(*evidence, strict=True):
        assert geometry_outliers.reasons(Evidence(*row), limits) == []


def test_a_factor_in_all_sigmas_changes_nothing():
    """σ three times too small for all lattices: size and move are nine times as large."""
    evidence = evidence_of(50)
    limits = geometry_outliers.limits(evidence, 3, 10)
    scaled = evidence._replace(size=9 * evidence.size, move=9 * evidence.move)
    scaled_limits = geometry_outliers.limits(scaled, 3, 10)
    assert scaled_limits.size == pytest.approx(9 * limits.size)
    assert scaled_limits.move == pytest.approx(9 * limits.move)


TYPICAL = Evidence(inside=59.0, beyond=0.01, size=1.4, move=2.4)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"inside": 9.0}, "at least 10"),
        ({"beyond": 0.6}, "share of its spots"),
        ({"size": 40.0}, "median squared residual"),
        ({"move": 400.0}, "its own detector"),
    ],
)
def test_one_wrong_lattice_is_told_by_each_kind_of_evidence(change, what):
    limits = geometry_outliers.limits(evidence_of(12), 3, 10)
    assert geometry_outliers.reasons(TYPICAL, limits) == []
    (reason,) = geometry_outliers.reasons(TYPICAL._replace(**change), limits)
    assert what in reason


def test_too_few_lattices_tell_nothing_of_each_other():
    """Of three lattices none is the odd one; a share of spots beyond the ellipse still counts."""
    three = Evidence(*(np.full(3, value) for value in TYPICAL))
    limits = geometry_outliers.limits(three, 3, 10)
    odd = TYPICAL._replace(size=80.0, move=900.0)
    assert geometry_outliers.reasons(odd, limits) == []
    assert len(geometry_outliers.reasons(odd._replace(beyond=0.7), limits)) == 1


def test_a_lattice_without_spots_is_left_out():
    limits = geometry_outliers.limits(evidence_of(12), 3, 10)
    nothing = Evidence(0.0, np.nan, np.nan, np.nan)
    assert len(geometry_outliers.reasons(nothing, limits)) == 1


def test_distance_in_the_plane_of_residuals():
    """(3, 1) from the centre (1, 0) with variances 4 and 1."""
    cut = Cut(np.array([1.0, 0.0]), np.diag([0.25, 1.0]), 9.0)
    assert cut.distance2(np.array([[3.0, 1.0]])) == pytest.approx([2.0])
