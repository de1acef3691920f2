"""Shell statistics against gemmi, plain loops and planted truths."""

import gemmi
import numpy as np
import pytest

from spreadflow.analysis.merging import statistics
from spreadflow.analysis.merging.merging import Merged, Unique

CELL = [67.2, 59.8, 47.2, 90.0, 110.3, 90.0]
GROUP = "C 1 2 1"
D_MIN = 2.5
NOISE, BIJVOET = 0.3, 0.4


@pytest.fixture(scope="module")
def unique() -> Unique:
    return Unique(np.array(CELL), GROUP, D_MIN)


@pytest.fixture(scope="module")
def merged(unique) -> Merged:
    """Merged intensities with independent errors of `NOISE` in the half sets and anomalous
    differences of `BIJVOET`; a tenth is missing.
    """
    rng = np.random.default_rng(1)
    n = len(unique)
    plus = unique.friedel > 0
    mean = rng.exponential(size=n) * 10.0 + 5.0
    mean[unique.mate[plus]] = mean[plus]
    difference = BIJVOET * rng.standard_normal(n)
    difference[unique.mate[plus]] = difference[plus]
    truth = mean + 0.5 * unique.friedel * difference
    half = truth[:, None] + NOISE * rng.standard_normal((n, 2))
    half[rng.random(n) < 0.1, 0] = np.nan
    half[rng.random(n) < 0.1, 1] = np.nan
    count = 3 * np.isfinite(half).sum(axis=1)
    with np.errstate(invalid="ignore"):
        intensity = np.where(count > 0, np.nansum(half, axis=1) / np.maximum(count / 3, 1), np.nan)
    return Merged(
        intensity,
        np.where(count > 0, NOISE / np.sqrt(np.maximum(count / 3, 1)), np.nan),
        half,
        count,
        np.zeros(n),
    )


def test_possible_reflections_are_counted_as_gemmi_does(unique, merged):
    group = gemmi.SpaceGroup(GROUP)
    possible = gemmi.make_miller_array(gemmi.UnitCell(*CELL), group, D_MIN)
    n_centric = group.operations().centric_flag_array(possible).sum()
    overall = statistics.overall(merged, unique)

    assert overall.n_possible[0] == 2 * len(possible) - n_centric
    bins = statistics.in_bins(merged, unique, 8)
    assert bins.n_possible.sum() == overall.n_possible[0]
    assert bins.n_measured.sum() == overall.n_measured[0] == (merged.n > 0).sum()
    assert bins.n_observations.sum() == merged.n.sum()
    assert bins.n_possible.std() / bins.n_possible.mean() < 0.05, "equal volumes hold equally many"
    for i in range(8):
        inside = (unique.d <= bins.d_max[i]) & (unique.d > bins.d_min[i])
        assert bins.n_possible[i] == inside.sum() + (unique.d == bins.d_min[i]).sum()


def test_cc_half_is_gemmis(unique, merged):
    """gemmi correlates the two half sets as two sets of intensities."""
    both = np.isfinite(merged.half).all(axis=1)
    sets = []
    for half in merged.half[both].T:
        data = gemmi.Intensities()
        sign = np.where(unique.friedel[both] < 0, -1, 1)[:, None]
        data.set_data(
            unique.cell, unique.space_group, sign * unique.hkl[both], half, np.ones(both.sum())
        )
        data.merge_in_place(gemmi.DataType.Anomalous)
        sets.append(data)
    overall = statistics.overall(merged, unique)
    correlation = sets[0].calculate_correlation(sets[1])

    assert overall.n_pairs[0] == correlation.n == both.sum()
    assert overall.cc_half[0] == pytest.approx(correlation.coefficient(), abs=1e-12)


def test_r_split_is_the_formula(unique, merged):
    total = difference = 0.0
    for a, b in merged.half:
        if np.isfinite(a) and np.isfinite(b):
            total += 0.5 * (a + b)
            difference += abs(a - b)

    assert statistics.overall(merged, unique).r_split[0] == pytest.approx(
        2**-0.5 * difference / total, rel=1e-12
    )


def test_anomalous_correlation_is_that_of_signal_and_noise(unique, merged):
    overall = statistics.overall(merged, unique)
    signal = BIJVOET**2
    noise = 2.0 * NOISE**2

    assert overall.cc_ano[0] == pytest.approx(signal / (signal + noise), abs=0.04)
    acentric = np.flatnonzero(unique.friedel > 0)
    complete = np.isfinite(merged.half).all(axis=1)
    assert overall.n_pairs_ano[0] == (complete[acentric] & complete[unique.mate[acentric]]).sum()


def test_without_anomalous_signal_there_is_no_correlation(unique, merged):
    rng = np.random.default_rng(2)
    flat = merged._replace(half=10.0 + rng.standard_normal(merged.half.shape))

    assert abs(statistics.overall(flat, unique).cc_ano[0]) < 0.06


def test_mean_over_sigma(unique, merged):
    measured = merged.n > 0
    expected = np.mean(merged.intensity[measured] / merged.sigma[measured])

    assert statistics.overall(merged, unique).i_over_sigma[0] == pytest.approx(expected, rel=1e-12)


def test_nothing_measured_is_said_as_nan(unique, merged):
    nothing = Merged(
        intensity=np.full(len(unique), np.nan),
        sigma=np.full(len(unique), np.nan),
        half=np.full((len(unique), 2), np.nan),
        n=np.zeros(len(unique), dtype=int),
        chi2=np.zeros(len(unique)),
    )
    bins = statistics.in_bins(nothing, unique, 5)
    assert (bins.n_measured == 0).all()
    assert np.isnan(bins.cc_half).all()
    assert np.isnan(bins.r_split).all()


@pytest.mark.parametrize("b", [12.0, 35.0])
def test_wilson_b_is_found(unique, b):
    """Intensities of independent atoms with one B, drawn by Wilson's statistics."""
    rng = np.random.default_rng(3)
    s2 = 0.25 / unique.d**2
    amount = np.where(
        unique.friedel == 0, rng.standard_normal(len(s2)) ** 2, rng.exponential(size=len(s2))
    )
    power = np.zeros(len(s2))
    for name, n in (("C", 5.0), ("N", 1.35), ("O", 1.5)):
        element = gemmi.Element(name)
        f = np.array([element.it92.calculate_sf(x) for x in s2])
        power += n * f**2

    merged = Merged(
        intensity=amount * power * np.exp(-2.0 * b * s2),
        sigma=np.ones(len(s2)),
        half=np.ones((len(s2), 2)),
        n=np.ones(len(s2), dtype=int),
        chi2=np.zeros(len(s2)),
    )
    found, sigma = statistics.wilson_b(merged, unique)

    assert sigma < 2.0 and abs(found - b) < max(3.0 * sigma, 2.0)


def test_wilson_b_is_that_of_gemmis_structure(unique):
    """Structure factors that gemmi computes for random atoms of the average composition."""
    rng = np.random.default_rng(4)
    structure = gemmi.SmallStructure()
    structure.cell, structure.spacegroup = unique.cell, unique.space_group
    for name, n in (("C", 500), ("N", 135), ("O", 150)):
        for x in rng.random((n, 3)):
            site = gemmi.SmallStructure.Site()
            site.element = gemmi.Element(name)
            site.fract = gemmi.Fractional(*x)
            site.occ = 1.0
            site.u_iso = 25.0 / (8 * np.pi**2)
            structure.add_site(site)
    structure.setup_cell_images()
    calculator = gemmi.StructureFactorCalculatorX(unique.cell)
    hkl = unique.hkl[:2500].tolist()
    f = np.array([calculator.calculate_sf_from_small_structure(structure, h) for h in hkl])
    intensity = np.full(len(unique), np.nan)
    intensity[: len(f)] = np.abs(f) ** 2
    merged = Merged(
        intensity=intensity,
        sigma=np.ones(len(unique)),
        half=np.full((len(unique), 2), np.nan),
        n=np.where(np.isnan(intensity), 0, 1),
        chi2=np.zeros(len(unique)),
    )
    found, sigma = statistics.wilson_b(merged, unique)

    assert abs(found - 25.0) < max(3.0 * sigma, 2.0)
