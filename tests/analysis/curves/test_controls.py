"""The controls: passed by a real signal, failed where the input was tampered with."""

import numpy as np
import pytest

from spreadflow.analysis.curves import controls, expand

N = 60


@pytest.fixture(scope="module")
def judged(drawn):
    """A function: lattices and their pulses → control → verdict."""

    def verdicts(lattices, pulses, index=lambda i, of: of):
        p = drawn.p
        best = expand.refine(_evaluator(lattices, p)(None, None), p, np.zeros(len(p.names)))
        curves = p.curves(best.theta)
        n = len(lattices)
        made = controls.verdicts(
            _evaluator(lattices, p),
            p,
            best,
            starts={
                "swapped": curves[::-1],
                "true": p.curves(drawn.theta),
                "flat": np.zeros_like(curves),
            },
            index=index,
            spectrum=lambda i, of: controls.other_spectrum(of, pulses[i], pulses[(i + n // 2) % n]),
            band=np.ones(len(p.nodes_ev), dtype=bool),
            sigma=p.sigma(best.fisher).ravel(),
        )
        return {verdict.name: verdict for verdict in made}

    return verdicts


def _evaluator(lattices, p):
    def make(change, some):
        mine = [
            of if change is None else change(i, of)
            for i, of in enumerate(lattices)
            if some is None or some(i)
        ]
        return lambda theta: expand.normal(mine, p, theta)

    return make


@pytest.mark.stage
def test_a_signal_of_the_metals_passes_all(drawn, judged):
    found = judged(
        *drawn.lattices(N, 11), index=lambda i, of: controls.wrong_index(of, drawn.factors)
    )
    names = [
        "start swapped",
        "start true",
        "start flat",
        "half sets",
        "sites 1, 2 swapped",
        "h, k, l + 1",
        "spectra shuffled",
    ]
    assert list(found) == names
    assert {name: verdict.figure for name, verdict in found.items() if not verdict.passed} == {}
    assert all(verdict.bar for verdict in found.values())


@pytest.mark.stage
def test_lattices_whose_noise_is_larger_than_told_fail_half_sets(drawn, judged):
    found = judged(*drawn.lattices(N, 12, excess=4.0))
    assert not found["half sets"].passed and found["half sets"].figure == pytest.approx(
        2.0, rel=0.4
    )


@pytest.mark.stage
def test_spectra_that_are_wrong_already_are_not_worse_when_shuffled(drawn, judged):
    """Each lattice has been given another pulse's spectrum: others are as good."""
    lattices, pulses = drawn.lattices(N // 3, 13)
    turned = np.roll(pulses, 7, axis=0)
    wrong = [
        controls.other_spectrum(of, *pair)
        for of, *pair in zip(lattices, pulses, turned, strict=True)
    ]
    assert not judged(wrong, turned)["spectra shuffled"].passed


@pytest.mark.stage
def test_sites_that_are_alike_may_be_swapped(drawn, judged):
    """The curves of both are the same in nature."""
    same = drawn._replace(theta=np.tile(drawn.theta[: len(drawn.theta) // 2], 2))
    assert not judged(*same.lattices(N // 2, 14))["sites 1, 2 swapped"].passed


def test_the_wrong_index_is_one_that_the_lattice_has(drawn):
    """Body-centred: two along l, for h, k, l + 1 is absent. Beyond the table there is nothing."""
    of = drawn.lattices(1, 15)[0][0]
    wrong = controls.wrong_index(of, drawn.factors)
    f = drawn.factors
    for column, (h, k, m) in enumerate(of.gram.hkl.tolist()):
        there = np.flatnonzero((f.hkl == [h, k, m + 2]).all(axis=1))
        expected = f.rest[there[0]] if len(there) else 0.0
        assert wrong.fixed[column] == pytest.approx(expected)
        np.testing.assert_allclose(
            wrong.groups[:, column], f.groups[:, there[0]] if len(there) else 0.0
        )
    assert (wrong.fixed == 0).any() and (wrong.fixed != 0).any() and wrong.gram is of.gram


def test_another_pulse_has_its_photons_where_the_pixels_had_theirs(drawn):
    """|F|² of a column grows by the ratio of its channel's photons, both pulses of equal energy;
    dark channels go.
    """
    (of,), (photons,) = drawn.lattices(1, 16)
    photons = np.where(np.arange(12) == of.gram.channel[0], 1e-6 * photons.max(), photons)
    others = np.roll(photons, 1) * 3.0
    made = controls.other_spectrum(of, photons, others)
    curves = drawn.p.reference
    ratio = (others / others.sum()) / (photons / photons.sum())
    ratio[of.gram.channel[0]] = 0.0
    before, after = (np.abs(expand.derivatives(one, curves)[0]) ** 2 for one in (of, made))
    np.testing.assert_allclose(after, before * ratio[of.gram.channel])
