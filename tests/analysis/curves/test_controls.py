"""The controls: passed by a real signal, failed where the input was tampered with."""

import numpy as np
import pytest

from spreadflow.analysis.curves import controls, expand

N = 60


@pytest.fixture(scope="module")
def judged(drawn):
    """A function: lattices and their pulses → control → verdict."""

    def verdicts(lattices, pulses, index=lambda i, terms: terms):
        p = drawn.p
        evaluator = _evaluator(lattices, p)
        best = expand.refine(evaluator(None, None), p, np.zeros(len(p.names)))
        curves = p.curves(best.theta)
        others = np.roll(pulses, -(len(lattices) // 2), axis=0)
        starts = {
            "swapped": curves[::-1],
            "true": p.curves(drawn.theta),
            "flat": np.zeros_like(curves),
        }
        of_controls = controls.verdicts(
            evaluator,
            p,
            best,
            starts=starts,
            index=index,
            spectrum=lambda i, terms: controls.other_spectrum(terms, pulses[i], others[i]),
            band=np.ones(len(p.nodes_ev), dtype=bool),
            sigma=p.sigma(best.fisher).ravel(),
        )
        return {verdict.name: verdict for verdict in of_controls}

    return verdicts


def _evaluator(lattices, p):
    def evaluator(change, is_chosen):
        chosen = [
            terms if change is None else change(i, terms)
            for i, terms in enumerate(lattices)
            if is_chosen is None or is_chosen(i)
        ]
        return lambda theta: expand.normal(chosen, p, theta)

    return evaluator


@pytest.mark.stage
def test_a_signal_of_the_metals_passes_all(drawn, judged):
    def wrong(i, terms):
        return controls.wrong_index(terms, drawn.factors)

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
    assert all(verdict.bar for verdict in verdicts.values())


@pytest.mark.stage
def test_lattices_whose_noise_is_larger_than_their_weights_say_fail_half_sets(drawn, judged):
    half_sets = judged(*drawn.lattices(N, 12, excess=4.0))["half sets"]
    assert not half_sets.passed
    assert half_sets.figure == pytest.approx(2.0, rel=0.4)


@pytest.mark.stage
def test_spectra_that_are_wrong_already_are_not_worse_when_shuffled(drawn, judged):
    """Each lattice has another pulse's spectrum already: others are as good."""
    lattices, pulses = drawn.lattices(N // 3, 13)
    turned = np.roll(pulses, 7, axis=0)
    wrong = [
        controls.other_spectrum(terms, *pair)
        for terms, *pair in zip(lattices, pulses, turned, strict=True)
    ]
    assert not judged(wrong, turned)["spectra shuffled"].passed


@pytest.mark.stage
def test_sites_that_are_alike_may_be_swapped(drawn, judged):
    """The curves of both are the same in nature."""
    same = drawn._replace(theta=np.tile(drawn.theta[: len(drawn.theta) // 2], 2))
    assert not judged(*same.lattices(N // 2, 14))["sites 1, 2 swapped"].passed


def test_the_wrong_index_is_one_that_the_lattice_has(drawn):
    """Body-centred: two along l, for h, k, l + 1 is absent. Beyond the table there is nothing."""
    (terms,), _ = drawn.lattices(1, 15)
    factors = drawn.factors
    wrong = controls.wrong_index(terms, factors)
    for column, (h, k, m) in enumerate(terms.gram.hkl.tolist()):
        fixed = 0.0
        groups = np.zeros(2)
        for row in np.flatnonzero((factors.hkl == [h, k, m + 2]).all(axis=1)):
            fixed = factors.rest[row]
            groups = factors.groups[:, row]
        assert wrong.fixed[column] == pytest.approx(fixed)
        np.testing.assert_allclose(wrong.groups[:, column], groups)
    assert (wrong.fixed == 0).any() and (wrong.fixed != 0).any()
    assert wrong.gram is terms.gram


def test_another_pulse_has_its_photons_where_the_pixels_had_theirs(drawn):
    """|F|² of a column grows by the ratio of its channel's photons, both pulses of equal energy;
    dark channels go.
    """
    (terms,), (photons,) = drawn.lattices(1, 16)
    channel = terms.gram.channel
    dark = channel[0]
    photons[dark] = 1e-6 * photons.max()
    others = np.roll(photons, 1) * 3.0
    changed = controls.other_spectrum(terms, photons, others)
    ratio = (others / others.sum()) / (photons / photons.sum())
    ratio[dark] = 0.0

    def squared(of_lattice):
        F, _ = expand.derivatives(of_lattice, drawn.p.reference)
        return np.abs(F) ** 2

    np.testing.assert_allclose(squared(changed), squared(terms) * ratio[channel])
