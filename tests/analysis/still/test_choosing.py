"""Choosing reflections: by geometry and shell alone, with the scale of all others."""

from types import SimpleNamespace

import numpy as np
import pytest

from spreadflow.analysis.still import choosing
from spreadflow.analysis.still.variance import own_variance
from spreadflow.models import Choice, ReflectionFlag, Reflections, Spots

N = 4000


def reflections(rng, n=N, **columns) -> Reflections:
    """Reflections that were integrated without failure, at random places."""
    zeros = np.zeros(n)
    default = {
        "hkl": rng.integers(-40, 40, (n, 3)),
        "d": rng.uniform(2.1, 6.0, n),
        "panel": np.zeros(n, int),
        "partiality": rng.uniform(1e-3, 1.0, n),
        "lorentz": rng.uniform(1.0, 3.0, n),
        "polarization": rng.uniform(0.7, 1.0, n),
        "capture": rng.uniform(0.8, 0.9, n),
        "intensity": zeros,
        "sigma": np.full(n, 10.0),
        "sigma_background": np.full(n, 10.0),
        "background": np.full(n, 9.0),
        "n_foreground": np.full(n, 20),
        "bbox": np.tile([0, 12, 0, 12], (n, 1)),
        "flags": np.zeros(n, int),
    }
    return Reflections(**(dict.fromkeys(Reflections._fields, zeros) | default | columns))


@pytest.fixture
def lattice() -> SimpleNamespace:
    """A lattice of scale 3 whose |F|² have Wilson's distribution, with noise; `average` is that of
    average reflections.
    """
    rng = np.random.default_rng(4)
    predicted = reflections(rng)
    means = choosing.ShellMeans(np.array([0.0, 0.5]), np.log([1e3, 10.0]))
    average = choosing.of_average(predicted, means)
    true = 3.0 * average * rng.exponential(size=N)
    rest = 400.0
    intensity = true + rng.normal(size=N) * np.sqrt(rest + true)
    sigma = np.sqrt(rest + own_variance(intensity, np.full(N, rest)))
    return SimpleNamespace(
        reflections=predicted._replace(
            intensity=intensity, sigma=sigma, sigma_background=np.full(N, np.sqrt(rest))
        ),
        average=average,
    )


def test_shells_follow_the_mean_and_not_the_reflection():
    rng = np.random.default_rng(1)
    d = (rng.uniform(0.1**3, 0.5**3, 50_000)) ** (-1 / 3)
    true = 1e4 * np.exp(-20.0 / d**2)
    means = choosing.shell_means(d, true * rng.exponential(size=len(d)))
    inside = (d > 2.05) & (d < 5.0)
    np.testing.assert_allclose(means.at(d[inside]), true[inside], rtol=0.2)
    assert abs(np.mean(means.at(d) / true) - 1.0) < 0.02
    assert (np.diff(means.s2) > 0).all()


def test_an_average_reflection_has_what_geometry_says():
    rng = np.random.default_rng(2)
    found = reflections(rng, n=3)
    means = choosing.ShellMeans(np.array([0.0, 1.0]), np.log([50.0, 50.0]))
    by_hand = 50.0 * found.lorentz * found.partiality * found.polarization * found.capture
    np.testing.assert_allclose(choosing.of_average(found, means), by_hand)


def test_the_scale_is_found_also_among_outliers(lattice):
    own = lattice.reflections
    everything = np.ones(N, bool)
    scale = choosing.lattice_scale(own, lattice.average, everything)
    assert scale.value == pytest.approx(3.0, rel=0.06)

    spoiled = own.intensity.copy()
    spoiled[::100] += 1e6
    again = choosing.lattice_scale(own._replace(intensity=spoiled), lattice.average, everything)
    assert again.value == pytest.approx(3.0, rel=0.08)


def test_no_scale_without_signal_or_reflections(lattice):
    own = lattice.reflections
    few = np.arange(N) < choosing.FEWEST - 1
    assert np.isnan(choosing.lattice_scale(own, lattice.average, few).value)
    dark = own._replace(intensity=-np.abs(own.intensity))
    scale = choosing.lattice_scale(dark, lattice.average, np.ones(N, bool))
    assert np.isnan(scale.value) and np.isnan(scale.of_others).all()


def test_a_reflection_has_no_say_in_its_own_scale(lattice):
    """However bright it is, what is expected of it stays the same to first order; what is expected
    of the others does not."""
    own = lattice.reflections
    few = np.arange(N) < 30
    scale = choosing.lattice_scale(own, lattice.average, few)
    brightest = int(np.argmax(lattice.average[:30]))
    brighter = own.intensity.copy()
    brighter[brightest] *= 1.5
    again = choosing.lattice_scale(own._replace(intensity=brighter), lattice.average, few)
    by_itself = abs(again.of_others[brightest] / scale.of_others[brightest] - 1.0)
    by_all = abs(again.value / scale.value - 1.0)
    assert by_itself < 0.2 * by_all


def test_noise_is_that_of_background_readout_and_plane():
    """120 photons of background and 20 of readout in 20 of 144 pixels."""
    found = choosing.noise(reflections(np.random.default_rng(0), n=2, background=[6.0, -3.0]), 1.0)
    np.testing.assert_allclose(found**2, [140.0 * (1 + 20 / 124), 20.0 * (1 + 20 / 124)])


def test_each_reflection_has_one_end():
    rule = choosing.Rule(d_max=20.0, min_expected=0.5, weak_fraction=0.1)
    d = np.array([3.0, 3.0, 3.0, 25.0])
    expected = np.array([5.0, 4.9, 4.9, 1e3])
    drawn = np.array([0.99, 0.05, 0.1, 0.0])
    choice = choosing.choose(rule, d, expected, np.full(4, 10.0), drawn)
    assert choice.tolist() == [Choice.STRONG, Choice.WEAK, Choice.LEFT_OUT, Choice.OUTSIDE]


def test_chosen_reflections_are_as_bright_as_all(lattice):
    """With half of the reflections weak; the same bar on their own intensities makes the chosen
    ones brighter.
    """
    own = lattice.reflections
    scale = choosing.lattice_scale(own, lattice.average, np.ones(N, bool))
    noise = np.full(N, 20.0) * 20.0
    rule = choosing.Rule(np.inf, 0.5, 0.1)
    lots = choosing.lots(1, 5, 0, own.hkl)
    choice = choosing.choose(rule, own.d, scale.of_others * lattice.average, noise, lots)
    chosen = choice != Choice.LEFT_OUT
    assert 0.3 < chosen.mean() < 0.9

    def brightness(rows):
        return np.mean((own.intensity / lattice.average)[rows & (lattice.average > 20.0)])

    everything = np.ones(N, bool)
    assert brightness(chosen) == pytest.approx(brightness(everything), rel=0.06)
    assert brightness(own.intensity > 0.5 * noise) > 1.15 * brightness(everything)


def test_lots_know_nothing_but_identity():
    hkl = np.random.default_rng(0).integers(-30, 30, (5000, 3))
    lots = choosing.lots(1, 2**63 + 5, 1, hkl)
    assert abs(np.mean(lots < 0.1) - 0.1) < 0.02
    np.testing.assert_array_equal(choosing.lots(1, 2**63 + 5, 1, hkl[::-1]), lots[::-1])
    for other in ((2, 2**63 + 5, 1), (1, 2**63 + 6, 1), (1, 2**63 + 5, 0)):
        assert np.mean(choosing.lots(*other, hkl) == lots) < 0.01


def test_failed_and_overlapped_reflections_are_not_sound():
    flags = [0, ReflectionFlag.EDGE, ReflectionFlag.OVERLAP, ReflectionFlag.SATURATED]
    found = reflections(np.random.default_rng(0), n=4, flags=np.array(flags))
    assert choosing.is_sound(found).tolist() == [True, True, False, False]


def test_spots_are_matched_one_to_one():
    """Two spots near one reflection: the nearer is its; none across panels or the tolerance."""
    rng = np.random.default_rng(0)
    found = reflections(
        rng,
        n=4,
        panel=np.array([0, 0, 1, 0]),
        fast=np.array([10.0, 20.0, 10.0, 50.0]),
        slow=np.array([10.0, 10.0, 10.0, 50.0]),
    )
    spots = Spots(*np.zeros((len(Spots._fields), 4)))._replace(
        panel=np.array([0, 0, 1, 0]),
        fast=np.array([11.0, 10.5, 12.0, 54.0]),
        slow=np.array([10.0, 10.0, 10.0, 50.0]),
    )
    assert choosing.matched(found, spots, 3.0).tolist() == [1, -1, 2, -1]
    nothing = Spots(*np.zeros((len(Spots._fields), 0)))
    assert choosing.matched(found, nothing, 3.0).tolist() == [-1] * 4
