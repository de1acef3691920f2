"""Hashes of identities: the published numbers, lots and half sets that are fair."""

import numpy as np

from spreadflow.analysis.identity_hash import half_sets, hashed, uniform


def test_numbers_are_those_of_splitmix64():
    """Its first outputs from the seed 1234567, as published with the algorithm's test vectors."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    start = np.full(3, 1234567, np.uint64)
    assert hashed(start, np.arange(3)).tolist() == expected


def test_lots_are_uniform_and_independent_of_order():
    h, k = np.meshgrid(np.arange(-100, 100), np.arange(-100, 100))
    lots = uniform(3, h.ravel(), k.ravel())
    counts, _ = np.histogram(lots, bins=20, range=(0, 1))
    expected = len(lots) / 20
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert 5 < chi2 < 45, "19 degrees of freedom"
    assert abs(np.corrcoef(lots[:-1], lots[1:])[0, 1]) < 0.02
    order = np.random.default_rng(0).permutation(len(lots))
    np.testing.assert_array_equal(uniform(3, h.ravel()[order], k.ravel()[order]), lots[order])
    assert (uniform(4, h.ravel(), k.ravel()) != lots).all()


def test_half_sets_are_even_whatever_the_identities():
    rng = np.random.default_rng(4)
    shot_id = rng.integers(0, 2**63, 20000).astype(np.uint64)
    half = half_sets(shot_id)
    assert set(half) == {0, 1} and abs(half.mean() - 0.5) < 0.02
    order = rng.permutation(20000)
    np.testing.assert_array_equal(half[order], half_sets(shot_id[order]))

    consecutive = half_sets(np.arange(20000))
    assert abs(consecutive.mean() - 0.5) < 0.02
    assert abs(np.mean(consecutive[1:] == consecutive[:-1]) - 0.5) < 0.02
