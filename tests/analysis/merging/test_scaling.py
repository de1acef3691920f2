"""Planted scales, B and error model are found again; the gauge is fixed; order and groups do not
matter.
"""

from typing import NamedTuple

import numpy as np
import pytest
import scipy

import by_arrays
from by_arrays import Terms, fit_error_model, terms_of, variance_of
from spreadflow.analysis.merging import error_model, loops, merging, scaling
from spreadflow.analysis.merging.error_model import ErrorModel
from spreadflow.analysis.merging.merging import Observations, Sums, Unique

N_GROUPS = 8
PLANTED = ErrorModel(sfac=1.3, sb=0.7, sadd=0.06, spart=0.06)


class Experiment(NamedTuple):
    """Observations and what is true of them."""

    obs: Observations
    unique: Unique
    log_g: np.ndarray
    """(lattice,)"""
    b: np.ndarray
    """(lattice,) Å²"""
    truth: np.ndarray
    """(unique,) intensity"""

    @property
    def photons_per_intensity(self) -> np.ndarray:
        """(observation,)"""
        own = self.obs.lattice
        scale = np.exp(self.log_g[own] - 2.0 * self.b[own] * self.obs.s2)
        return scale * self.obs.factor

    @property
    def sums(self) -> Sums:
        return Sums(self.obs, len(self.unique))


def simulated(
    n_lattices: int,
    per_lattice: int,
    model: ErrorModel = PLANTED,
    seed: int = 1,
    outliers: float = 0.0,
) -> Experiment:
    """Return lattices that see random unique reflections, with partialities and errors exactly as
    the model has them.
    """
    rng = np.random.default_rng(seed)
    unique = Unique(np.array([40.0, 40.0, 70.0, 90.0, 90.0, 90.0]), "P 43 21 2", 2.2)
    truth = rng.exponential(size=len(unique)) * np.exp(-30.0 / (2.0 * unique.d**2))
    plus = unique.friedel > 0
    truth[unique.mate[plus]] = truth[plus] * rng.gamma(1 / 0.06**2, 0.06**2, plus.sum())
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
    terms = Terms(m + background, m, m**2, (1.0 / p - 1.0 + np.log(p)) * m**2)
    sigma = np.sqrt(variance_of(model, terms))
    photons = m + sigma * rng.standard_normal(len(lattice))
    photons += np.where(rng.random(len(lattice)) < outliers, 30.0 * sigma, 0.0)
    obs = Observations(
        lattice=lattice,
        group=np.arange(n_lattices) * N_GROUPS // n_lattices,
        half=rng.integers(0, 2, n_lattices),
        unique=row,
        s2=s2,
        intensity=photons,
        variance=background,
        factor=factor,
        partiality=p,
        slopes=np.zeros((len(lattice), 3)),
    )
    return Experiment(obs, unique, log_g, b, truth)


def scaled(table: Experiment, **settings) -> scaling.Scaling:
    return scaling.scale(table.obs, table.sums, table.unique, **settings)


@pytest.fixture(scope="module")
def plenty() -> tuple[Experiment, scaling.Scaling]:
    table = simulated(2000, 150)
    return table, scaled(table)


def cramer_rao(table: Experiment) -> np.ndarray:
    """Return the smallest covariance (lattice, 2, 2) of ln G and B when the intensities and the
    variances are known.
    """
    obs = table.obs
    k = table.photons_per_intensity
    m = k * table.truth[obs.unique]
    terms = terms_of(obs, k, table.truth)
    sigma = np.sqrt(variance_of(PLANTED, terms))
    by_log_g = m / sigma
    by_b = -2.0 * obs.s2 * m / sigma
    design = np.stack([by_log_g, by_b], axis=1)

    products = design[:, :, None] * design[:, None, :]
    columns = products.reshape(-1, 4).T
    totals = [np.bincount(obs.lattice, column) for column in columns]
    information = np.stack(totals, axis=1).reshape(-1, 2, 2)
    return np.linalg.inv(information)


@pytest.mark.stage
def test_planted_scales_and_b_are_found_as_well_as_can_be(plenty):
    table, found = plenty
    least = cramer_rao(table)
    error = np.stack([found.log_g - table.log_g, found.b - table.b], axis=1)
    sigma = np.sqrt(np.diagonal(least, axis1=1, axis2=2))
    scatter = (error / sigma).std(axis=0)

    assert ((scatter > 0.93) & (scatter < 1.12)).all(), scatter

    # what is found is the mean of what may be true: it is drawn to the mean of all lattices
    slope, _ = np.polyfit(found.log_g, table.log_g, 1)
    assert abs(slope - 1.0) < 0.005, "strong and weak lattices alike"
    slope, _ = np.polyfit(found.b, table.b, 1)
    assert abs(slope - 1.0) < 0.01


@pytest.mark.stage
def test_planted_error_model_is_found(plenty):
    _, found = plenty
    np.testing.assert_allclose(found.error_model, PLANTED, rtol=0.05)


@pytest.mark.stage
def test_sigma_is_honest(plenty):
    """Deviations of the merged intensities from the truth have the spread their σ says."""
    table, found = plenty
    merged = merging.merge(table.obs, found.intensity, found.sigma, table.sums)
    merged = merging.with_scatter(merged, table.unique)
    is_measured = merged.n > 0
    intensity = merged.intensity[is_measured]
    sigma = merged.sigma[is_measured]
    truth = table.truth[is_measured]
    level = np.sum(intensity * truth / sigma**2) / np.sum((truth / sigma) ** 2)
    pull = (intensity - level * truth) / sigma

    assert abs(pull.mean()) < 0.1
    assert abs(pull.std() - 1.0) < 0.05


@pytest.mark.stage
def test_cycles_converge_and_the_gauge_is_fixed(plenty):
    table, found = plenty
    assert found.n_cycles < 20 and found.last_change <= scaling.TOLERANCE
    assert abs(found.log_g.mean()) < 1e-12 and abs(found.b.mean()) < 1e-10
    more = scaled(table, tolerance=0.0, n_cycles=found.n_cycles + 5)
    np.testing.assert_allclose(more.log_g, found.log_g, atol=1e-3)


@pytest.mark.stage
def test_common_factor_changes_intensities_and_nothing_else(plenty):
    """Lorentz factors in other units."""
    table, found = plenty
    again = scaled(table._replace(obs=table.obs._replace(factor=table.obs.factor * 1e-7)))

    np.testing.assert_allclose(again.log_g, found.log_g, atol=1e-9)
    np.testing.assert_allclose(again.intensity, found.intensity * 1e7, rtol=1e-9)


@pytest.mark.stage
def test_order_of_observations_and_lattices_does_not_matter(plenty):
    table, found = plenty
    rng = np.random.default_rng(2)
    place = rng.permutation(len(table.log_g))  # old lattice i becomes number place[i]
    new_lattice = place[table.obs.lattice]
    order = np.lexsort([rng.random(len(new_lattice)), new_lattice])
    columns = {
        name: getattr(table.obs, name)[order]
        for name in ("unique", "s2", "intensity", "variance", "factor", "partiality", "slopes")
    }
    back = np.argsort(place)
    obs = Observations(
        lattice=new_lattice[order],
        group=np.arange(2000) * 3 // 2000,
        half=table.obs.half[back],
        **columns,
    )
    again = scaling.scale(obs, Sums(obs, len(table.unique)), table.unique)

    np.testing.assert_allclose(again.log_g[place], found.log_g, atol=1e-9)
    np.testing.assert_allclose(again.error_model, found.error_model, rtol=1e-9)


@pytest.mark.stage
def test_scales_of_some_groups_first_lead_to_the_same_in_fewer_cycles(monkeypatch):
    """Within a few hundredths of the standard deviations that are known beforehand."""
    table = simulated(660, 300, seed=4)
    group = np.arange(660) * 22 // 660
    obs = table.obs._replace(group=group)
    sums = Sums(obs, len(table.unique))
    expected = scaling.scale(obs, sums, table.unique, n_cycles=100, tolerance=1e-4)
    without = scaling.scale(obs, sums, table.unique)
    monkeypatch.setattr(scaling, "LEAST_AT_START", 1.0)
    found = scaling.scale(obs, sums, table.unique)

    assert found.last_change <= scaling.TOLERANCE
    assert found.n_cycles < without.n_cycles
    away = (found.unknowns - expected.unknowns)[:, :2] / expected.sigmas[:, :2]
    assert np.sqrt(np.mean(away**2, axis=0)).max() < 0.04
    np.testing.assert_allclose(found.error_model, expected.error_model, rtol=5e-3, atol=2e-3)
    assert abs(found.log_g.mean()) < 1e-9


def test_few_groups_or_few_observations_have_no_start(monkeypatch):
    """A start of a third of the observations, or one that measures few reflections, is not made."""
    table = simulated(60, 60, seed=11)
    counted = []
    converged = scaling._converged

    def noted(data, *args):
        counted.append(data.sums.counts.sum())
        return converged(data, *args)

    monkeypatch.setattr(scaling, "_converged", noted)
    scaled(table, n_cycles=1)
    monkeypatch.setattr(scaling, "LEAST_AT_START", 1e-3)
    few_groups = table._replace(obs=table.obs._replace(group=np.arange(60) // 20))
    scaled(few_groups, n_cycles=1)
    assert counted == [60, 60]
    many_groups = table._replace(obs=table.obs._replace(group=np.arange(60) // 3))
    scaled(many_groups, n_cycles=1)
    assert counted[2:] == [6, 60]


@pytest.mark.parametrize("seed", range(5))
def test_non_negative_solution_is_that_of_scipy(seed):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((4, 4))
    target = rng.standard_normal(4)
    expected, _ = scipy.optimize.nnls(root, target)
    found = error_model.non_negative(root.T @ root, root.T @ target)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_low_multiplicity_still_scales():
    """30 lattices, most reflections measured once: the cycles converge and scales are far better
    than none.
    """
    table = simulated(30, 120, seed=3)
    assert np.median(np.bincount(table.obs.unique)) <= 1
    found = scaled(table, n_cycles=50, refine_b=False)
    assert found.last_change <= scaling.TOLERANCE and (found.b == 0).all()
    level = 2.0 * table.obs.s2.mean() * table.b
    assert np.std(found.log_g - table.log_g + level) < 0.35 * np.std(table.log_g - level)


@pytest.mark.parametrize("seed", range(4))
def test_few_lattices_that_hardly_share_a_reflection_do_not_run_away(seed):
    """24 lattices of 80 reflections, one of them with a low order that is hundreds of times as
    strong as its shell: scales, B and intensities stay near the truth, and the cycles end.
    """
    table = simulated(24, 80, seed=seed)
    strongest = np.flatnonzero(np.bincount(table.obs.unique) >= 3)[0]
    is_strong = table.obs.unique == strongest
    intensity = np.where(is_strong, 300.0 * table.obs.intensity, table.obs.intensity)
    truth = table.truth.copy()
    truth[strongest] *= 300.0
    obs = table.obs._replace(intensity=intensity)
    found = scaling.scale(obs, table.sums, table.unique, n_cycles=60)
    merged = merging.merge(obs, found.intensity, found.sigma, table.sums)
    merged = merging.with_scatter(merged, table.unique)

    assert found.last_change <= scaling.TOLERANCE
    error_b = found.b - table.b
    error = found.log_g - table.log_g - 2.0 * obs.s2.mean() * error_b
    assert np.abs(error - error.mean()).max() < 0.8
    assert np.abs(error_b).max() < 12.0
    is_measured = merged.n > 0
    ratio = merged.intensity[strongest] / truth[strongest]
    level = np.sum(merged.intensity[is_measured]) / np.sum(truth[is_measured])
    assert 0.6 < ratio / level < 1.6


def test_a_mate_that_fluctuated_down_does_not_win():
    """Mates that were measured once each at 1.19 and 0.009 of the truth, both well recorded, by
    lattices of many others: their mean is near the middle, and its σ covers both.
    """
    table = simulated(300, 150, seed=8)
    is_well_recorded = table.obs.partiality > 0.5
    times = np.bincount(table.obs.unique[is_well_recorded], minlength=len(table.unique))
    plus = np.flatnonzero((table.unique.friedel > 0) & (times > 0))
    pair = next(row for row in plus if times[table.unique.mate[row]] > 0)
    mate = table.unique.mate[pair]
    strong = 3.0 * table.truth.mean()
    truth = table.truth.copy()
    truth[[pair, mate]] = strong
    keep = np.ones(len(table.obs.unique), dtype=bool)
    intensity = table.obs.intensity.copy()
    k = table.photons_per_intensity
    for row, measured in ((pair, 1.19), (mate, 0.009)):
        of_row = table.obs.unique == row
        first = np.flatnonzero(of_row & is_well_recorded)[0]
        keep[of_row] = False
        keep[first] = True
        intensity[first] = measured * strong * k[first]
    columns = table.obs._asdict() | {"intensity": intensity}
    per_lattice = ("group", "half")
    obs = Observations(
        **{name: c if name in per_lattice else c[keep] for name, c in columns.items()}
    )
    sums = Sums(obs, len(table.unique))
    found = scaling.scale(obs, sums, table.unique)
    merged = merging.merge(obs, found.intensity, found.sigma, sums)
    merged = merging.with_scatter(merged, table.unique)

    weight = merged.sigma[[pair, mate]] ** -2.0
    mean = weight @ merged.intensity[[pair, mate]] / weight.sum()
    measured = merged.n > 0
    level = np.sum(merged.intensity[measured]) / np.sum(truth[measured])
    sigma = weight.sum() ** -0.5
    assert 0.3 < mean / (level * strong) < 0.9
    assert abs(mean - level * strong) < 4.0 * sigma


@pytest.mark.stage
def test_planted_tilts_and_widths_are_found():
    """Partialities predicted with orientations and widths that are wrong alike for all reflections
    of a lattice: post-refinement takes their errors out.
    """
    table = simulated(400, 150, ErrorModel(1.2, 0.5, 0.04, 0.0), seed=9)
    rng = np.random.default_rng(9)
    n = len(table.obs.lattice)
    depth = np.sqrt(-2.0 * np.log(table.obs.partiality))
    angle = rng.uniform(0.0, 2.0 * np.pi, n)
    width_rad = np.deg2rad(0.05)
    slopes = np.column_stack(
        [
            depth * np.cos(angle) / width_rad,
            depth * np.sin(angle) / width_rad,
            depth**2,
        ]
    )
    sizes = [np.deg2rad(0.005), np.deg2rad(0.005), 0.1]
    tilt = sizes * rng.standard_normal((400, 3))
    changed = np.exp((slopes * tilt[table.obs.lattice]).sum(axis=1))
    obs = table.obs._replace(intensity=table.obs.intensity * changed, slopes=slopes)
    found = scaling.scale(obs, table.sums, table.unique)
    blind = scaling.scale(obs._replace(slopes=0.0 * slopes), table.sums, table.unique)

    pulls = (found.unknowns[:, 2:] - tilt) / found.sigmas[:, 2:]
    assert (pulls.std(axis=0) > 0.8).all()
    assert (pulls.std(axis=0) < 1.3).all()
    np.testing.assert_allclose(found.spread[2:], sizes, rtol=0.2)
    assert found.error_model.spart < 0.03 < 0.08 < blind.error_model.spart


def test_outliers_do_not_pull_the_scales():
    clean = simulated(300, 150, seed=4)
    spoilt = simulated(300, 150, seed=4, outliers=0.01)
    first = scaled(clean)
    second = scaled(spoilt)

    def error(found):
        level = 2.0 * clean.obs.s2.mean() * (found.b - clean.b)
        return np.std(found.log_g - clean.log_g - level)

    assert error(second) < 1.5 * error(first)

    is_outlier = np.abs(spoilt.obs.intensity - clean.obs.intensity) > 0
    ratio = second.sigma / first.sigma
    level = np.exp(np.median(np.log(ratio[~is_outlier])))
    assert np.median(ratio[is_outlier]) > 1.5 * level, "outliers keep less weight"


def test_reference_gives_the_slope_through_the_origin():
    """mark0: the absolute scale of every lattice against known intensities, some of them
    unknown.
    """
    table = simulated(200, 150, seed=5)
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
    table = simulated(300, 150, seed=7)
    wrong = table.truth * np.random.default_rng(7).gamma(1 / 0.4**2, 0.4**2, len(table.truth))
    right, found = (
        scaled(table, reference=r, refine_b=False, n_cycles=30) for r in (table.truth, wrong)
    )

    assert found.last_change <= scaling.TOLERANCE
    assert np.std(found.log_g - right.log_g) < 2.0 * 0.4 / np.sqrt(150)


@pytest.mark.parametrize(("n_lattices", "most"), [(100, 0.04), (1000, 0.005)])
def test_error_model_is_at_rest_at_the_expected_squares(n_lattices, most):
    """Residuals whose squares are the variance: scoring steps lead to the model that planted them,
    but for what is expected beforehand, which counts less the more observations there are.
    """
    table = simulated(n_lattices, 100, seed=6)
    terms = terms_of(table.obs, table.photons_per_intensity, table.truth)
    variance = variance_of(PLANTED, terms)
    sign = np.where(np.arange(len(variance)) % 2, 1.0, -1.0)
    extra = 0.3 * variance
    residual = sign * np.sqrt(variance + extra)
    leverage = np.zeros(len(variance))
    has_others = np.ones(len(variance), dtype=bool)

    def step(model):
        return fit_error_model(terms, residual, extra, leverage, has_others, model, table.sums)

    np.testing.assert_allclose(step(PLANTED), PLANTED, rtol=most)
    model = ErrorModel(1.0, 0.1, 0.1, 0.1)
    for _ in range(20):
        model = step(model)
    np.testing.assert_allclose(model, PLANTED, rtol=2 * most)


@pytest.mark.parametrize("has_reference", [False, True])
@pytest.mark.parametrize("n_cycles", [1, 6])
def test_compiled_loops_are_the_equations_of_arrays(has_reference, n_cycles):
    """Tilts, outliers, and reflections that are measured once."""
    table = simulated(60, 60, seed=11, outliers=0.02)
    rng = np.random.default_rng(11)
    sizes = [200.0, 200.0, 1.0]
    slopes = (sizes * rng.standard_normal((len(table.obs.lattice), 3))).astype(np.float32)
    obs = table.obs._replace(slopes=slopes)
    reference = None
    if has_reference:
        reference = 10.0 * table.truth
        reference[::7] = np.nan
    settings = {"reference": reference, "n_cycles": n_cycles, "tolerance": 0.0}
    sums = Sums(obs, len(table.unique))
    found = scaling.scale(obs, sums, table.unique, **settings)
    expected = by_arrays.scale(obs, sums, table.unique, **settings)

    for name, value in expected._asdict().items():
        np.testing.assert_allclose(
            getattr(found, name), value, rtol=1e-10, atol=1e-13, err_msg=name
        )


def test_lattices_of_many_observations_are_gone_over_in_chunks():
    """As the equations of arrays, with lattices of 650 observations, more than two chunks."""
    assert 2 * loops.CHUNK < 650
    table = simulated(6, 650, seed=12)
    settings = {"n_cycles": 3, "tolerance": 0.0}
    found = scaling.scale(table.obs, table.sums, table.unique, **settings)
    expected = by_arrays.scale(table.obs, table.sums, table.unique, **settings)

    for name, value in expected._asdict().items():
        np.testing.assert_allclose(
            getattr(found, name), value, rtol=1e-10, atol=1e-13, err_msg=name
        )


def test_single_precision_is_far_below_sigma():
    table = simulated(100, 60, seed=13)
    columns = ("s2", "intensity", "variance", "factor", "partiality")
    single = {name: getattr(table.obs, name).astype(np.float32) for name in columns}
    found = scaling.scale(table.obs._replace(**single), table.sums, table.unique)
    expected = scaling.scale(table.obs, table.sums, table.unique)

    assert found.intensity.dtype == np.float32
    assert found.n_cycles == expected.n_cycles
    assert np.abs((found.intensity - expected.intensity) / expected.sigma).max() < 1e-4
    assert np.abs((found.unknowns - expected.unknowns) / expected.sigmas).max() < 1e-4


def test_steps_anticipate_the_next_ones():
    """Steps of two slow modes, of 9 and 6 tenths of what is left: the end is known from three."""
    rng = np.random.default_rng(14)
    n = 40
    table = simulated(n, 5, seed=14)
    end = np.zeros((n, 5))
    modes = rng.standard_normal((2, n, 5)) * 0.01 * scaling.STEP_MAX
    modes[:, :, :2] -= modes[:, :, :2].mean(axis=1, keepdims=True)
    variance = np.broadcast_to(scaling.STEP_MAX**2, (n, 5))
    unknowns = end + modes.sum(axis=0)
    left = np.ones(2)
    past = ()
    for _ in range(3):
        change = np.tensordot(-np.array([0.1, 0.4]) * left, modes, axes=1)
        moved, past = scaling.extrapolated(table.sums, past, unknowns, change, variance)
        unknowns = unknowns + moved
        left, *_ = np.linalg.lstsq(modes.reshape(2, -1).T, (unknowns - end).ravel(), rcond=None)

    assert np.abs(left).max() < 1e-3


def test_a_longer_step_forgets_what_was():
    table = simulated(10, 5, seed=15)
    rng = np.random.default_rng(15)
    change = 0.01 * scaling.STEP_MAX * rng.standard_normal((10, 5))
    variance = np.broadcast_to(scaling.STEP_MAX**2, (10, 5))
    zeros = np.zeros((10, 5))
    _, past = scaling.extrapolated(table.sums, (), zeros, change, variance)
    moved, past = scaling.extrapolated(table.sums, past, change, 2.0 * change, variance)

    np.testing.assert_array_equal(moved, 2.0 * change)
    assert len(past) == 1
