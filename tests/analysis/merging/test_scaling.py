"""Planted scales, B and error model are found again; the gauge is fixed; order and groups do not
matter.
"""

from typing import NamedTuple

import numpy as np
import pytest

from spreadflow.analysis.merging import error_model, merging, scaling
from spreadflow.analysis.merging.error_model import ErrorModel
from spreadflow.analysis.merging.merging import Observations, Sums, Unique

N_GROUPS = 8
PLANTED = ErrorModel(sfac=1.3, sb=0.7, sadd=0.06, spart=0.12)


class Made(NamedTuple):
    obs: Observations
    unique: Unique
    log_g: np.ndarray
    b: np.ndarray
    truth: np.ndarray


def made(
    n_lattices: int,
    per_lattice: int,
    model: ErrorModel = PLANTED,
    seed: int = 1,
    outliers: float = 0.0,
) -> Made:
    """Lattices that see random unique reflections, with partialities and errors exactly as the
    model has them.
    """
    rng = np.random.default_rng(seed)
    unique = Unique(np.array([40.0, 40.0, 70.0, 90.0, 90.0, 90.0]), "P 43 21 2", 2.2)
    truth = rng.exponential(size=len(unique)) * np.exp(-30.0 / (2.0 * unique.d**2))
    log_g = 0.6 * rng.standard_normal(n_lattices)
    b = 4.0 * rng.standard_normal(n_lattices)
    log_g = log_g - log_g.mean()
    b = b - b.mean()
    lattice = np.repeat(np.arange(n_lattices), per_lattice)
    row = rng.integers(0, len(unique), len(lattice))
    s2 = 0.25 / unique.d[row] ** 2
    p = rng.uniform(0.05, 1.0, len(lattice))
    background = rng.uniform(5, 500, len(lattice))
    factor = 4000.0 * p * rng.uniform(0.5, 2.0, len(lattice))
    m = np.exp(log_g[lattice] - 2.0 * b[lattice] * s2) * factor * truth[row]
    variance = model.variance((m + background, m, m**2, -2.0 * np.log(p) * m**2))
    photons = m + np.sqrt(variance) * rng.standard_normal(len(lattice))
    photons += np.where(rng.random(len(lattice)) < outliers, 30.0 * np.sqrt(variance), 0.0)
    group = np.arange(n_lattices) * N_GROUPS // n_lattices
    half = rng.integers(0, 2, n_lattices)
    obs = Observations(lattice, group, half, row, s2, photons, background, factor, p)
    return Made(obs, unique, log_g, b, truth)


def scaled(table: Made, **how) -> scaling.Scaling:
    return scaling.scale(
        table.obs, Sums(table.obs, len(table.unique), N_GROUPS), table.unique, **how
    )


@pytest.fixture(scope="module")
def plenty() -> tuple[Made, scaling.Scaling]:
    table = made(2000, 150)
    return table, scaled(table)


def cramer_rao(table: Made) -> np.ndarray:
    """(lattice, 2, 2) smallest covariance of ln G and B when the intensities and the variances are
    known.
    """
    obs = table.obs
    m = (
        np.exp(table.log_g[obs.lattice] - 2.0 * table.b[obs.lattice] * obs.s2)
        * obs.factor
        * table.truth[obs.unique]
    )
    variance = PLANTED.variance((m + obs.variance, m, m**2, -2.0 * np.log(obs.partiality) * m**2))
    design = np.stack([m, -2.0 * obs.s2 * m], axis=1) / np.sqrt(variance)[:, None]
    products = (design[:, :, None] * design[:, None, :]).reshape(-1, 4)
    information = np.stack([np.bincount(obs.lattice, column) for column in products.T], axis=1)
    return np.linalg.inv(information.reshape(-1, 2, 2))


def test_planted_scales_and_b_are_found_as_well_as_can_be(plenty):
    table, found = plenty
    least = cramer_rao(table)
    error = np.stack([found.log_g - table.log_g, found.b - table.b], axis=1)
    pull = error / np.sqrt(np.diagonal(least, axis1=1, axis2=2))
    assert ((pull.std(axis=0) > 0.93) & (pull.std(axis=0) < 1.12)).all(), pull.std(axis=0)
    assert abs(np.polyfit(table.log_g, found.log_g, 1)[0] - 1.0) < 0.005, (
        "strong and weak lattices alike"
    )
    assert abs(np.polyfit(table.b, found.b, 1)[0] - 1.0) < 0.01


def test_planted_error_model_is_found(plenty):
    _, found = plenty
    np.testing.assert_allclose(found.error_model, PLANTED, rtol=0.05)


def test_sigma_is_honest(plenty):
    """Deviations of the merged intensities from the truth have the spread their σ says."""
    table, found = plenty
    merged = merging.merge(
        table.obs, found.intensity, found.sigma, Sums(table.obs, len(table.unique), N_GROUPS)
    )
    ok = merged.n > 0
    level = np.sum(merged.intensity[ok] * table.truth[ok] / merged.sigma[ok] ** 2) / np.sum(
        (table.truth / merged.sigma)[ok] ** 2
    )
    pull = (merged.intensity - level * table.truth)[ok] / merged.sigma[ok]
    assert abs(pull.mean()) < 0.1 and abs(pull.std() - 1.0) < 0.05


@pytest.mark.stage
def test_cycles_converge_and_the_gauge_is_fixed(plenty):
    table, found = plenty
    assert found.n_cycles < 20 and found.last_change <= 1e-4
    assert abs(found.log_g.mean()) < 1e-12 and abs(found.b.mean()) < 1e-10
    more = scaled(table, tolerance=0.0, n_cycles=found.n_cycles + 5)
    np.testing.assert_allclose(more.log_g, found.log_g, atol=1e-3)


def test_common_factor_changes_intensities_and_nothing_else(plenty):
    """Lorentz factors in other units."""
    table, found = plenty
    again = scaled(table._replace(obs=table.obs._replace(factor=table.obs.factor * 1e-7)))
    np.testing.assert_allclose(again.log_g, found.log_g, atol=1e-9)
    np.testing.assert_allclose(again.intensity, found.intensity * 1e7, rtol=1e-9)


def test_order_of_observations_and_lattices_does_not_matter(plenty):
    table, found = plenty
    rng = np.random.default_rng(2)
    place = rng.permutation(len(table.log_g))  # old lattice i becomes number place[i]
    order = np.lexsort([rng.random(len(table.obs.lattice)), place[table.obs.lattice]])
    columns = {
        name: getattr(table.obs, name)[order]
        for name in ("unique", "s2", "intensity", "variance", "factor", "partiality")
    }
    back = np.argsort(place)
    obs = Observations(
        lattice=place[table.obs.lattice][order],
        group=np.arange(2000) * 3 // 2000,
        half=table.obs.half[back],
        **columns,
    )
    again = scaling.scale(obs, Sums(obs, len(table.unique), 3), table.unique)
    np.testing.assert_allclose(again.log_g[place], found.log_g, atol=1e-9)
    np.testing.assert_allclose(again.error_model, found.error_model, rtol=1e-9)


def test_low_multiplicity_still_scales():
    """30 lattices, most reflections measured once: the cycles converge and scales are far better
    than none.
    """
    table = made(30, 120, seed=3)
    assert np.median(np.bincount(table.obs.unique)) <= 1
    found = scaled(table, n_cycles=50, refine_b=False)
    assert found.last_change < 1e-3 and (found.b == 0).all()
    level = 2.0 * table.obs.s2.mean() * table.b
    assert np.std(found.log_g - table.log_g + level) < 0.35 * np.std(table.log_g - level)


def test_outliers_do_not_pull_the_scales():
    clean = made(300, 150, seed=4)
    spoilt = made(300, 150, seed=4, outliers=0.01)
    first = scaled(clean)
    second = scaled(spoilt)
    error = [
        np.std(f.log_g - clean.log_g - 2.0 * clean.obs.s2.mean() * (f.b - clean.b))
        for f in (first, second)
    ]
    assert error[1] < 1.5 * error[0]
    hit = np.abs(spoilt.obs.intensity - clean.obs.intensity) > 0
    level = np.exp(np.median(np.log(second.sigma[~hit] / first.sigma[~hit])))
    assert np.median(second.sigma[hit] / first.sigma[hit]) > 1.5 * level, (
        "outliers keep less weight"
    )


def test_reference_gives_the_slope_through_the_origin():
    """mark0: the absolute scale of every lattice against known intensities, some of them
    unknown.
    """
    table = made(200, 150, seed=5)
    reference = table.truth * 1e4
    reference[::7] = np.nan
    found = scaled(table, reference=reference)
    error_b = found.b - table.b
    error = found.log_g - (table.log_g - np.log(1e4)) - 2.0 * table.obs.s2.mean() * error_b
    assert np.sqrt(np.mean(error**2)) < 0.04, "the mean is not free"


def test_reference_with_errors_keeps_relative_scales():
    """Intensities of the reference are 40 % wrong: cycles converge, and the scales scatter as 150
    such errors do.
    """
    table = made(300, 150, seed=7)
    wrong = table.truth * np.random.default_rng(7).gamma(1 / 0.4**2, 0.4**2, len(table.truth))
    right, found = (
        scaled(table, reference=r, refine_b=False, n_cycles=30) for r in (table.truth, wrong)
    )
    assert found.last_change < 1e-3
    assert np.std(found.log_g - right.log_g) < 2.0 * 0.4 / np.sqrt(150)


def test_error_model_step_is_at_rest_at_the_expected_squares():
    """Residuals whose squares are the variance: the scoring step returns the model it started
    from.
    """
    table = made(100, 100, seed=6)
    k = (
        np.exp(table.log_g[table.obs.lattice] - 2.0 * table.b[table.obs.lattice] * table.obs.s2)
        * table.obs.factor
    )
    parts = error_model.terms(table.obs, k, table.truth)
    sign = np.where(np.arange(len(k)) % 2, 1.0, -1.0)
    extra = 0.3 * PLANTED.variance(parts)
    residual = sign * np.sqrt(PLANTED.variance(parts) + extra)
    sums = Sums(table.obs, len(table.unique), N_GROUPS)
    none = np.zeros(len(k))
    found = error_model.fit(parts, residual, extra, none, none == 0, PLANTED, sums)
    np.testing.assert_allclose(found, PLANTED, rtol=1e-8)
    start = error_model.fit(
        parts, residual, extra, none, none == 0, ErrorModel(1.0, 0.1, 0.1, 0.1), sums
    )
    np.testing.assert_allclose(start, PLANTED, rtol=0.3)
