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
    return Evidence((z2 > 9.21).mean(axis=1), np.median(z2, axis=1), move)


def test_none_of_a_thousand_good_lattices_is_beyond():
    evidence = evidence_of(1000)
    limits = geometry_outliers.limits(evidence, 3)
    for column, limit in zip(evidence, limits, strict=True):
        assert np.all(column <= limit)


def test_a_factor_in_all_sigmas_changes_nothing():
    """σ three times too small for all lattices: size and move are nine times as large."""
    evidence = evidence_of(50)
    limits = geometry_outliers.limits(evidence, 3)
    scaled = Evidence(evidence.beyond, 9 * evidence.size, 9 * evidence.move)
    scaled_limits = geometry_outliers.limits(scaled, 3)
    assert scaled_limits.size == pytest.approx(9 * limits.size)
    assert scaled_limits.move == pytest.approx(9 * limits.move)


@pytest.mark.parametrize("field", Evidence._fields)
def test_one_wrong_lattice_is_told_by_each_kind_of_evidence(field):
    evidence = evidence_of(12)
    limits = geometry_outliers.limits(evidence, 3)
    typical = Evidence(0.01, 1.4, 2.4)
    wrong = typical._replace(**{field: 10 * max(getattr(limits, field), 0.1)})
    assert geometry_outliers.reasons(typical, limits) == []
    ((_, value, limit),) = geometry_outliers.reasons(wrong, limits)
    assert value > limit == getattr(limits, field)


def test_too_few_lattices_tell_nothing_of_each_other():
    """Of three lattices none is the odd one; a share of spots beyond the ellipse still counts."""
    evidence = Evidence(np.full(3, 0.01), np.array([1.4, 1.4, 80.0]), np.array([2.0, 2.0, 900.0]))
    limits = geometry_outliers.limits(evidence, 3)
    assert geometry_outliers.reasons(Evidence(0.01, 80.0, 900.0), limits) == []
    assert len(geometry_outliers.reasons(Evidence(0.7, 80.0, 900.0), limits)) == 1


def test_a_lattice_without_spots_is_left_out():
    limits = geometry_outliers.limits(evidence_of(12), 3)
    nothing = Evidence(np.nan, np.nan, np.nan)
    assert len(geometry_outliers.reasons(nothing, limits)) == 1


def test_distance_in_the_plane_of_residuals():
    """(3, 1) from the centre (1, 0) with variances 4 and 1."""
    cut = Cut(np.array([1.0, 0.0]), np.diag([0.25, 1.0]), 9.0)
    assert cut.distance2(np.array([[3.0, 1.0]])) == pytest.approx([2.0])
