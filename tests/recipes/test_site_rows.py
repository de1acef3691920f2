"""What was refined of sites beside their curves: rows of a table, and warnings of values that are
far from the model.
"""

import numpy as np
import pytest

import drawn
from spreadflow.analysis.curves import dispersion
from spreadflow.analysis.curves.columns import NO_SITE_UNKNOWNS
from spreadflow.analysis.curves.expand import RefinedCurves
from spreadflow.products import Spread, spread
from spreadflow.recipes import curves
from spreadflow.recipes.site_rows import ABSURD, UNLIKELY, site_rows, site_warnings

SITES = ["FE1", "FE2"]

NAMES = ["x", "y", "z", "B"]


def rows_of(values: list[float]) -> spread.Sites:
    """Rows of two sites, of which the second is where the model has it."""
    return Spread.sites(
        site=np.repeat([0, 1], 4),
        unknown=np.tile(np.arange(4), 2),
        value=np.append(values, np.zeros(4)),
        sigma=np.full(8, 0.01),
        prior_sigma=np.tile([0.1, 0.1, 0.1, 1.0], 2),
    )


def test_rows_are_the_last_of_theta_with_their_quoted_sigma():
    """The covariance of pixels that are twice as noisy as they say."""
    crystal = drawn.orthorhombic()
    values = np.arange(8).reshape(2, 4) / 100
    sites, _ = drawn.moved_sites(crystal, values)
    p = dispersion.with_sites(crystal.p, sites.names, sites.sigma)
    n = len(p.names)
    pixels = np.diag(np.linspace(50.0, 400.0, n))
    refined = RefinedCurves(
        theta=np.append(crystal.theta, values),
        losses=np.zeros(5),
        hessian=pixels + p.restraints,
        of_pixels=pixels,
        scores=np.zeros((5, n)),
        steps=[],
    )
    fit = curves.quoted_fit(p, refined, "fisher")._replace(noise=4.0 * pixels)
    rows = site_rows(fit, sites)
    assert len(rows) == 8
    np.testing.assert_array_equal(rows.site, np.repeat([0, 1], 4))
    np.testing.assert_array_equal(rows.unknown, np.tile(np.arange(4), 2))
    np.testing.assert_allclose(rows.value, values.ravel())
    np.testing.assert_array_equal(rows.prior_sigma, np.tile([0.1, 0.1, 0.1, 1.0], 2))
    own = np.diag(pixels)[-8:]
    prior = rows.prior_sigma**-2.0
    np.testing.assert_allclose(rows.sigma, np.sqrt(4.0 * own + prior) / (own + prior))

    alone = curves.quoted_fit(
        crystal.p,
        refined._replace(
            theta=crystal.theta,
            hessian=np.eye(n - 8),
            of_pixels=np.eye(n - 8),
            scores=np.zeros((5, n - 8)),
        ),
        "fisher",
    )
    empty = site_rows(alone, NO_SITE_UNKNOWNS)
    assert len(empty) == 0
    assert site_warnings(empty, SITES, []) == []


def test_values_that_the_model_allows_are_not_warned_of():
    assert site_warnings(rows_of([0.1, -0.15, 0.0, 2.5]), SITES, NAMES) == []


@pytest.mark.parametrize(
    ("sigma", "value", "what"), [(0.03, 0.1, "y of FE1"), (0.5, 2.0, "B of FE1")]
)
def test_a_value_beyond_three_sigma_of_the_model(sigma, value, what):
    values = [0.0] * 4
    unknown = NAMES.index(what[0])
    values[unknown] = -value
    rows = rows_of(values)
    rows.prior_sigma[unknown] = sigma
    (warning,) = site_warnings(rows, SITES, NAMES)
    assert warning.what.startswith(what) and warning.todo == UNLIKELY
    assert warning.value.startswith(f"-{value:.2g}") and f"{3 * sigma:.2g}" in warning.limit


def test_a_site_that_has_left_its_place_is_said_aloud():
    """0.37 Å in all, which no axis has, whatever the model was said to know; once for each site."""
    rows = rows_of([0.25, -0.2, 0.18, 0.0])
    rows.prior_sigma[:] = 10.0
    (warning,) = site_warnings(rows, SITES, NAMES)
    assert warning.what.startswith("FE1 HAS LEFT ITS PLACE") and warning.value == "0.37 Å"
    assert warning.todo == ABSURD
    tight = rows_of([0.5, 0.0, 0.0, -4.0])
    assert [one.todo for one in site_warnings(tight, SITES, NAMES)] == [ABSURD, ABSURD]
    assert "B OF FE1 IS ABSURD" in site_warnings(tight, SITES, NAMES)[1].what
