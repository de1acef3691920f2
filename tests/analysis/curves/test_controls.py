"""The controls: passed by a real signal, failed where the input was tampered with."""

from types import SimpleNamespace

import numpy as np
import pytest

import drawn as drawn_lattices
from spreadflow.analysis import identity_hash
from spreadflow.analysis.curves import controls, loops
from spreadflow.analysis.curves.controls import Trial
from spreadflow.analysis.curves.expand import (
    NO_REST,
    NO_SITES,
    FittedRest,
    RefinedCurves,
    complex_curves,
)
from spreadflow.recipes.gram import with_curves, with_rest
from spreadflow.recipes.lattice_sums import LatticeSums

N = 60


def no_change(columns, numbers):
    """The columns as they are."""
    return controls.Tampered(columns.hkl, np.ones(len(columns.hkl)))


@pytest.fixture(scope="module")
def judged(drawn):
    """A function: lattices and their pulses → control → verdict."""

    def verdicts(grams, pulses, index=no_change):
        p = drawn.p
        sums = LatticeSums(grams, drawn.factors, pulses, p.energies_ev)
        return _verdicts(sums, p, pulses, index, {"true": p.curves(drawn.theta)})

    return verdicts


def _verdicts(sums, p, pulses, index, more_starts):
    best = sums.refine(p, Trial(np.zeros(len(p.names))))
    curves = p.curves(best.theta)
    others = np.roll(pulses, -(sums.n // 2), axis=0)
    starts = {"swapped": curves[::-1], **more_starts, "flat": np.zeros_like(curves)}
    changes = controls.Changes(
        starts=starts,
        half=identity_hash.half_sets(np.arange(sums.n)),
        wrong_index=index,
        other_spectrum=lambda columns, numbers: controls.other_spectrum(
            columns, pulses[numbers], others[numbers]
        ),
    )
    of_controls = controls.verdicts(
        lambda trial: sums.again(p, trial, best),
        p,
        best,
        changes,
        band=np.ones(len(p.nodes_ev), dtype=bool),
        sigma=p.sigma(best.fisher).ravel(),
    )
    return {verdict.name: verdict for verdict in of_controls}


@pytest.mark.stage
def test_a_signal_of_the_metals_passes_all(drawn, judged):
    def wrong(columns, numbers):
        return controls.wrong_index(columns, drawn.factors)

    verdicts = judged(*drawn.lattices(N, 11), index=wrong)
    names = [
        "start swapped",
        "start true",
        "start flat",
        "half sets",
        "sites 1, 2 swapped",
        "h, k, l + 1",
        "spectra shuffled",
    ]
    assert list(verdicts) == names
    failed = {name: verdict.figure for name, verdict in verdicts.items() if not verdict.passed}
    assert failed == {}
    assert all(verdict.what and verdict.bar for verdict in verdicts.values())


@pytest.mark.stage
def test_lattices_whose_noise_is_larger_than_their_weights_say_fail_half_sets(drawn, judged):
    half_sets = judged(*drawn.lattices(N, 12, excess=4.0))["half sets"]
    assert not half_sets.passed
    assert half_sets.figure == pytest.approx(2.0, rel=0.4)


def test_half_sets_are_judged_by_their_lattices_alone():
    """Each half is refined from the lattices that it has, and without lattices not at all."""
    p = SimpleNamespace(names=["a"])
    chosen = []

    def refine(trial: Trial) -> SimpleNamespace:
        numbers = np.arange(4)
        chosen.append(numbers[trial.is_chosen(numbers)].tolist())
        return SimpleNamespace(theta=np.array([len(chosen[-1])]), fisher=np.eye(1))

    nodes = np.array([[1.0], [2.0]])
    verdict = controls._halves(refine, p, np.array([1, 0, 1, 1]), nodes)
    assert chosen == [[1], [0, 2, 3]]
    assert verdict.figure == pytest.approx(np.std([-2.0 / np.sqrt(2.0), -4.0 / np.sqrt(8.0)]))
    assert not controls._halves(refine, p, np.ones(4, dtype=int), nodes).passed
    assert len(chosen) == 2


@pytest.mark.stage
def test_spectra_that_are_wrong_already_are_not_worse_when_shuffled(drawn, judged):
    """Each lattice has another pulse's spectrum already: others are as good."""
    grams, pulses = drawn.lattices(N // 3, 13)
    turned = np.roll(pulses, 7, axis=0)
    wrong = LatticeSums(grams, drawn.factors, turned, drawn.energies_ev)
    own = wrong.columns
    factor = controls.other_spectrum(own, pulses, turned).factor
    wrong.columns = own._replace(
        fixed=factor * own.fixed, groups=np.ascontiguousarray(factor[:, None] * own.groups)
    )
    assert not _verdicts(wrong, drawn.p, turned, no_change, {})["spectra shuffled"].passed


@pytest.mark.stage
def test_sites_that_are_alike_may_be_swapped(drawn, judged):
    """The curves of both are the same in nature."""
    same = drawn._replace(theta=np.tile(drawn.theta[: len(drawn.theta) // 2], 2))
    assert not judged(*same.lattices(N // 2, 14))["sites 1, 2 swapped"].passed


@pytest.fixture(scope="module")
def judged_with_rest(wrong):
    """Verdicts where X is unknown and the model wrong, by name; lattices are expanded about a first
    refinement.
    """
    crystal = wrong.crystal
    p = crystal.p
    grams, pulses = crystal.lattices(N, 3)
    first = drawn_lattices.sums(crystal, grams, pulses, "complex", is_held=True)
    fit = first.refine(p, Trial(np.zeros(len(p.names))))
    about = with_curves(crystal.factors, p.curves(fit.theta))
    about = with_rest(about, fit.rest, crystal.space_group)
    grams, pulses = crystal.lattices(N, 3, about=about)
    sums = drawn_lattices.sums(crystal, grams, pulses, "complex", is_held=True)

    def shifted(columns, numbers):
        return controls.wrong_index(columns, crystal.factors)

    return _verdicts(sums, p, pulses, shifted, {"true": p.curves(crystal.theta)})


@pytest.mark.stage
def test_with_x_unknown_a_signal_of_the_metals_passes(judged_with_rest):
    """Swapped sites, other spectra and half sets tell what they tell with X known; wrong indices
    are the likelier the less is known of X, and zero is too far to start from.
    """
    verdicts = dict(judged_with_rest)
    del verdicts["start flat"]
    index = verdicts.pop("h, k, l + 1")
    assert index.figure > 10.0
    assert list(verdicts)[-3:] == ["scale", "model", "at rest"]
    failed = {name: verdict.figure for name, verdict in verdicts.items() if not verdict.passed}
    assert failed == {}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"log_scale": -0.06}, ["scale"]),
        ({"largest_share": 0.6}, ["model"]),
        ({"has_converged": False}, ["at rest"]),
    ],
)
def test_what_x_must_be_like(changes, expected):
    """On the model's scale, not as far from it as no model is, and at rest."""
    rest = FittedRest(
        hkl=np.zeros((1, 3), dtype=int),
        x=np.zeros((1, 2)),
        sigma=np.ones((1, 2)),
        variance=np.ones(1),
        scatter=0.0,
        log_scale=0.04,
        largest_share=0.4,
        has_converged=True,
    )
    refined = RefinedCurves(
        theta=np.zeros(1),
        losses=np.zeros(1),
        hessian=np.eye(1),
        of_pixels=np.eye(1),
        scores=np.zeros((1, 1)),
        steps=[],
        rest=rest._replace(**changes),
    )
    verdicts = controls.of_rest(refined)
    assert [verdict.name for verdict in verdicts if not verdict.passed] == expected
    assert controls.of_rest(refined._replace(rest=None)) == []


def test_the_wrong_index_is_one_that_the_lattice_has(drawn):
    """Body-centred: two along l, for h, k, l + 1 is absent. Beyond the table there is nothing."""
    columns = drawn.columns(drawn.lattices(1, 15)[0])
    factors = drawn.factors
    wrong = controls.wrong_index(columns, factors)
    for column, (h, k, m) in enumerate(columns.hkl.tolist()):
        assert wrong.hkl[column].tolist() == [h, k, m + 2]
        assert wrong.factor[column] == (factors.hkl == [h, k, m + 2]).all(axis=1).any()
    assert (wrong.factor == 0).any() and (wrong.factor != 0).any()


def test_another_pulse_has_its_photons_where_the_pixels_had_theirs(drawn):
    """|F|² of a column grows by the ratio of its channel's photons, both pulses of equal energy;
    dark channels go.
    """
    grams, pulses = drawn.lattices(3, 16)
    columns = drawn.columns(grams)
    dark = columns.channel[0]
    pulses[:, dark] = 1e-6 * pulses.max()
    others = np.roll(pulses, 1, axis=1) * 3.0
    changed = controls.other_spectrum(columns, pulses, others)
    ratio = (others.T / others.sum(axis=1)) / (pulses.T / pulses.sum(axis=1))
    ratio[dark] = 0.0
    expected = ratio[columns.channel, columns.lattice]
    np.testing.assert_allclose(changed.factor**2, expected)
    np.testing.assert_array_equal(changed.hkl, columns.hkl)


def test_tampered_columns_have_the_f_that_they_stand_for(drawn):
    """With another index, and a factor on it; none where there is no such node. All else stays."""
    grams, pulses = drawn.lattices(2, 17)
    sums = LatticeSums(grams, drawn.factors, pulses, drawn.energies_ev)
    wrong = controls.wrong_index(sums.columns, drawn.factors)
    halved = wrong._replace(factor=0.5 * wrong.factor)
    changed, _ = sums._changed(Trial(np.zeros(0), lambda columns, numbers: halved))
    f = complex_curves(drawn.p.reference)
    F = loops.structure_factors(changed, f, NO_REST, NO_SITES)
    for column, hkl in enumerate(wrong.hkl):
        row = np.flatnonzero((drawn.factors.hkl == hkl).all(axis=1))
        expected = 0.0
        if len(row):
            expected = 0.5 * drawn.factors.at(row)[0, changed.channel[column]]
        assert F[column] == pytest.approx(expected)
    assert changed.normal is sums.columns.normal and changed.intensity is sums.columns.intensity
