"""X in rows of tables: F is where a and b put it, and shells sum up their reflections."""

from types import SimpleNamespace

import numpy as np
import pytest

from spreadflow.analysis.curves import dispersion
from spreadflow.analysis.curves.expand import FittedRest, RefinedCurves, complex_curves
from spreadflow.analysis.curves.rest import Rest
from spreadflow.products import Spread
from spreadflow.recipes.curves import QuotedFit
from spreadflow.recipes.lattice_sums import LatticeSums, Ranks, Unknown
from spreadflow.recipes.rest_rows import rest_rows

ENERGIES = 7100.0 + 2.0 * np.arange(11)
"""Channels, eV."""

N = 6
"""Reflections, in two shells."""


@pytest.fixture
def found():
    """A site, six reflections of P 2₁ 2₁ 2₁, of which the first is centric, and their X."""
    rng = np.random.default_rng(4)
    model = rng.normal(0, 80, N) + 1j * rng.normal(0, 80, N)
    freedom = np.array([1, 2, 2, 2, 2, 2])
    rest = Rest(
        hkl=np.array([[1, 2, 0], [1, 2, 3], [2, 2, 3], [3, 2, 3], [4, 2, 3], [5, 2, 3]]),
        d=np.linspace(4.0, 2.1, N),
        model=model,
        along=model / np.abs(model),
        groups=(rng.normal(0, 5, (N, 1)) + 1j * rng.normal(0, 5, (N, 1))),
        site_slopes=np.zeros((N, 0)),
        freedom=freedom,
        weight=np.array([2.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        shell=np.array([0, 0, 0, 1, 1, 1]),
        light=np.full(len(ENERGIES), 1.0 / len(ENERGIES)),
    )
    x = np.where(rest.is_unknown, rng.normal(0, 20, (N, 2)), 0.0)
    fitted = FittedRest(
        hkl=rest.hkl,
        x=x,
        sigma=np.where(rest.is_unknown, 3.0, np.nan),
        variance=np.array([400.0, 900.0]),
        scatter=0.0,
        log_scale=0.0,
        largest_share=0.3,
        has_converged=True,
    )
    p = dispersion.free(np.ones((1, 2, len(ENERGIES))), ENERGIES, ENERGIES[::2])
    theta = rng.standard_normal(len(p.names))
    information = np.eye(len(theta))
    refined = RefinedCurves(
        theta, np.zeros(1), information, information, np.zeros((N, len(theta))), [], rest=fitted
    )
    lattices = SimpleNamespace(
        rest=rest,
        unknown=Unknown("complex", space_group="P 21 21 21"),
        first_variance=lambda rest: np.array([100.0, 200.0]),
        mean_factors=lambda p, theta, x: rest.in_mean_light(complex_curves(p.curves(theta)), x),
        n_shoeboxes=lambda: np.arange(N),
    )
    fit = QuotedFit(p, refined, information, "sandwich", np.zeros(len(theta)))
    return SimpleNamespace(rest=rest, x=x, fit=fit, lattices=lattices)


def test_f_is_where_x_and_curves_put_it(found):
    """Model, deviation along and across it, and the site in the mean light."""
    reflections, _ = rest_rows(found.fit, found.lattices)
    curves = found.fit.p.curves(found.fit.refined.theta)
    site = found.rest.groups[:, 0] * (curves[0, 0].mean() + 1j * curves[0, 1].mean())
    deviation = (found.x[:, 0] + 1j * found.x[:, 1]) * found.rest.along
    F = found.rest.model + deviation + site
    start = found.rest.model + found.rest.groups[:, 0] * (1.0 + 1.0j)
    np.testing.assert_allclose(reflections.f, np.abs(F))
    np.testing.assert_allclose(reflections.f_start, np.abs(start))
    np.testing.assert_allclose(reflections.phase_deg, np.angle(F / start, deg=True))
    assert reflections.is_centric.tolist() == [True] + [False] * 5
    assert np.isnan(reflections.b).tolist() == [True] + [False] * 5
    expected = np.sqrt([800.0, 400.0, 400.0, 900.0, 900.0, 900.0])
    np.testing.assert_allclose(reflections.prior_sigma, expected)


def test_shells_sum_up_their_reflections(found):
    reflections, shells = rest_rows(found.fit, found.lattices)
    second = reflections[reflections.shell == 1]
    assert shells.n.tolist() == [3, 3]
    assert shells.d_max[1] == second.d[0] and shells.d_min[1] == 2.1
    np.testing.assert_allclose(shells.first_rms, np.sqrt([400.0 / 3, 200.0]))
    np.testing.assert_allclose(shells.prior_rms, np.sqrt([1600.0 / 3, 900.0]))
    b = reflections.b
    assert shells.b_rms[0] == pytest.approx(np.sqrt((b[1] ** 2 + b[2] ** 2) / 2))
    expected = np.corrcoef(second.f, second.f_start)[0, 1]
    assert shells.correlation[1] == pytest.approx(expected)
    moved = np.average(np.abs(second.phase_deg), weights=second.f)
    assert shells.phase_moved_deg[1] == pytest.approx(moved)


def test_with_x_of_the_model_both_tables_are_empty():
    """They have all their columns."""
    tables = rest_rows(None, SimpleNamespace(rest=None))
    for declared, table in zip((Spread.reflections, Spread.shells), tables, strict=True):
        assert isinstance(table, declared) and len(table) == 0
        assert table.as_dict().keys() == declared.described().keys()


def test_shoeboxes_are_counted_once_for_each_of_their_reflections():
    """Three shoeboxes: of reflection 1; of 1 and its mate, and 0; of 2."""
    columns = SimpleNamespace(
        first_column=np.array([0, 3, 7, 8]), reflection=np.array([1, 1, 1, 1, 1, 0, 1, 2])
    )
    lattices = SimpleNamespace(columns=columns, rest=SimpleNamespace(n=4), ranks=Ranks())
    assert LatticeSums.n_shoeboxes(lattices).tolist() == [1, 2, 1, 0]
