"""Unique reflections and weighted means against gemmi; nothing depends on order, groups or half-set
bookkeeping.
"""

import gemmi
import numpy as np
import pytest

from spreadflow.analysis.merging import merging
from spreadflow.analysis.merging.merging import Fate

CRYSTALS = {
    "C 1 2 1": [67.2, 59.8, 47.2, 90.0, 110.3, 90.0],
    "P 43 21 2": [40.0, 40.0, 70.0, 90.0, 90.0, 90.0],
    "P 1": [30.0, 32.0, 35.0, 80.0, 95.0, 101.0],
    "H 3": [50.0, 50.0, 60.0, 90.0, 90.0, 120.0],
}
N_GROUPS = 7


@pytest.fixture(params=CRYSTALS)
def unique(request) -> merging.Unique:
    return merging.Unique(np.array(CRYSTALS[request.param]), request.param, 3.0)


def scattered(unique: merging.Unique, seed: int, n: int = 4000) -> np.ndarray:
    """(n, 3) random equivalents, of both hands, of the unique reflections."""
    rng = np.random.default_rng(seed)
    ops = [np.array(op.rot) // op.DEN for op in unique.space_group.operations().sym_ops]
    chosen = rng.integers(0, len(unique), n)
    turn = rng.integers(0, len(ops), n)
    sign = rng.choice([-1, 1], n)
    return np.array(
        [s * (unique.hkl[c] @ ops[t]) for s, c, t in zip(sign, chosen, turn, strict=True)],
        dtype=np.int32,
    )


def observations(
    unique: merging.Unique, seed: int, n: int = 4000
) -> tuple[merging.Observations, np.ndarray, np.ndarray]:
    """Observations with indices and intensities of a made-up experiment; returns them, hkl and
    σ.
    """
    rng = np.random.default_rng(seed)
    hkl = scattered(unique, seed, n)
    lattice = np.sort(rng.integers(0, 40, n))
    sigma = rng.uniform(0.5, 3.0, n)
    half = merging.half_sets(
        rng.integers(0, 2**63, 40).astype(np.uint64), np.zeros(40, dtype=np.int64)
    )
    one = np.ones(n)
    obs = merging.Observations(
        lattice,
        np.arange(40) * N_GROUPS // 40,
        half,
        unique.rows(hkl),
        one,
        rng.normal(5.0, 4.0, n),
        sigma**2,
        one,
        one,
    )
    return obs, hkl, sigma


def test_rows_are_those_of_gemmi(unique):
    hkl = scattered(unique, 1)
    rows = unique.rows(hkl)
    asu = gemmi.ReciprocalAsu(unique.space_group)
    operations = unique.space_group.operations()
    for h, row in zip(hkl.tolist(), rows.tolist(), strict=True):
        index, isym = asu.to_asu(h, operations)
        assert unique.hkl[row].tolist() == list(index)
        expected = 0 if operations.is_reflection_centric(index) else (1 if isym % 2 else -1)
        assert unique.friedel[row] == expected


def test_rows_outside_are_refused():
    unique = merging.Unique(np.array(CRYSTALS["C 1 2 1"]), "C 1 2 1", 3.0)
    outside = np.array(
        [[1, 2, 0], [0, 0, 0], [200, 0, 0], [0, 40, 0]]
    )  # centring absence, origin, beyond
    assert (unique.rows(outside) == -1).all()
    screw = merging.Unique(np.array(CRYSTALS["P 43 21 2"]), "P 43 21 2", 3.0)
    assert screw.rows(np.array([[0, 0, 2], [0, 0, 4], [3, 0, 0]])).tolist()[::2] == [-1, -1]
    assert screw.rows(np.array([[0, 0, 4]]))[0] >= 0


def test_mates_are_mutual_and_centric_ones_have_none(unique):
    acentric = np.flatnonzero(unique.friedel != 0)
    assert (unique.mate[unique.mate[acentric]] == acentric).all()
    assert (unique.hkl[unique.mate[acentric]] == unique.hkl[acentric]).all()
    assert (unique.mate[unique.friedel == 0] == -1).all()


@pytest.mark.parametrize("kind", [gemmi.DataType.Anomalous, gemmi.DataType.Mean])
def test_weighted_means_are_those_of_gemmi(unique, kind):
    obs, hkl, sigma = observations(unique, 2)
    merged = merging.merge(obs, obs.intensity, sigma, merging.Sums(obs, len(unique), N_GROUPS))
    data = gemmi.Intensities()
    data.set_data(unique.cell, unique.space_group, hkl, obs.intensity, sigma)
    data.merge_in_place(kind)
    index = np.array(data.miller_array)
    sign = np.array(data.isign_array)
    weight = np.where(merged.n > 0, merged.sigma**-2, 0.0)
    sum_wi = np.where(merged.n > 0, weight * np.nan_to_num(merged.intensity), 0.0)
    if kind == gemmi.DataType.Mean:
        mate = np.where(unique.mate < 0, np.arange(len(unique)), unique.mate)
        acentric = unique.mate >= 0
        weight = weight + acentric * weight[mate]
        sum_wi = sum_wi + acentric * sum_wi[mate]
        n = merged.n + acentric * merged.n[mate]
        row = unique.rows(index)
    else:
        n = merged.n
        row = unique.rows(np.where(sign[:, None] < 0, -index, index))
    assert len(row) == (n > 0).sum() if kind == gemmi.DataType.Anomalous else len(row) > 0
    np.testing.assert_allclose(sum_wi[row] / weight[row], data.value_array, rtol=1e-9)
    np.testing.assert_allclose(weight[row] ** -0.5, data.sigma_array, rtol=1e-9)
    np.testing.assert_array_equal(n[row], data.nobs_array)


def test_half_sets_are_the_means_of_their_lattices(unique):
    obs, _, sigma = observations(unique, 3)
    merged = merging.merge(obs, obs.intensity, sigma, merging.Sums(obs, len(unique), N_GROUPS))
    for half in (0, 1):
        mine = obs.half[obs.lattice] == half
        for row in np.unique(obs.unique)[::50]:
            of = mine & (obs.unique == row)
            expected = (
                np.average(obs.intensity[of], weights=sigma[of] ** -2.0) if of.any() else np.nan
            )
            np.testing.assert_allclose(merged.half[row, half], expected, rtol=1e-12)


def test_half_sets_depend_on_identity_alone_and_are_even():
    rng = np.random.default_rng(4)
    shot_id = rng.integers(0, 2**63, 20000).astype(np.uint64)
    k = rng.integers(0, 3, 20000)
    half = merging.half_sets(shot_id, k)
    order = rng.permutation(20000)
    np.testing.assert_array_equal(half[order], merging.half_sets(shot_id[order], k[order]))
    assert abs(half.mean() - 0.5) < 0.02
    assert abs(np.mean(half == merging.half_sets(shot_id, k + 1)) - 0.5) < 0.02, (
        "lattices of one shot are independent"
    )
    consecutive = merging.half_sets(
        np.arange(20000, dtype=np.uint64), np.zeros(20000, dtype=np.int64)
    )
    assert abs(np.mean(consecutive[1:] == consecutive[:-1]) - 0.5) < 0.02


def test_sums_do_not_depend_on_who_holds_which_group(unique, monkeypatch):
    """Three holders of groups, with rows in another order, and small chunks: the same bits."""
    obs, _, _ = observations(unique, 5)
    weight = 10.0 ** np.random.default_rng(5).uniform(-8, 8, len(obs.unique))
    whole = merging.Sums(obs, len(unique), N_GROUPS).by_unique(weight, obs.intensity)
    monkeypatch.setattr(merging, "CHUNK", 100 * N_GROUPS)
    partials = []
    for holder in range(3):
        mine = np.flatnonzero(obs.group[obs.lattice] % 3 == holder)
        part = obs._replace(lattice=obs.lattice[mine], unique=obs.unique[mine])
        calls: list[dict] = []
        sums = merging.Sums(
            part,
            len(unique),
            N_GROUPS,
            lambda parts, n, calls=calls: (
                calls.append(dict(parts)) or merging.add_in_order(parts, n)
            ),
        )
        sums.by_unique(weight[mine], obs.intensity[mine])
        partials.append(calls)
    joined = []
    for chunk in zip(*partials, strict=True):
        joined.append(
            merging.add_in_order({g: v for part in chunk for g, v in part.items()}, N_GROUPS)
        )
    assert len(joined) > 1
    np.testing.assert_array_equal(np.concatenate(joined).T, whole)


def test_merging_does_not_depend_on_the_order_within_a_lattice(unique):
    obs, _, sigma = observations(unique, 6)
    merged = merging.merge(obs, obs.intensity, sigma, merging.Sums(obs, len(unique), N_GROUPS))
    order = np.lexsort([np.random.default_rng(6).random(len(sigma)), obs.lattice])
    other = obs._replace(unique=obs.unique[order], intensity=obs.intensity[order])
    again = merging.merge(
        other, other.intensity, sigma[order], merging.Sums(other, len(unique), N_GROUPS)
    )
    np.testing.assert_allclose(again.intensity, merged.intensity, rtol=1e-12)


def test_what_is_measured_too_few_times_is_not_measured(unique):
    obs, _, sigma = observations(unique, 7)
    sums = merging.Sums(obs, len(unique), N_GROUPS)
    every, often = (merging.merge(obs, obs.intensity, sigma, sums, least) for least in (1, 3))
    few = every.n < 3
    assert few.any() and (often.n[few] == 0).all() and np.isnan(often.intensity[few]).all()
    np.testing.assert_array_equal(often.intensity[~few], every.intensity[~few])


def test_every_reflection_has_one_fate():
    """One reflection of each kind, and each is found out."""
    unique = merging.Unique(np.array(CRYSTALS["C 1 2 1"]), "C 1 2 1", 3.0)
    hkl = np.array([[1, 1, 1]] * 12 + [[1, 2, 0], [40, 0, 0], [1, 1, 2], [1, 1, 2], [1, 1, 2]])
    n = len(hkl)
    lattice = np.zeros(n, dtype=np.int64)
    lattice[-1] = 1
    table = {
        name: np.ones(n, dtype=np.float32)
        for name in ("partiality", "lorentz", "polarization", "capture", "intensity", "sigma")
    }
    table |= {"lattice": lattice, "hkl": hkl, "failed": np.arange(n) == 3}
    table["partiality"][14], table["sigma"][15] = 0.01, 0.0
    obs, count, fate = merging.select(
        table,
        np.zeros(2, dtype=np.int64),
        np.zeros(2, dtype=np.int8),
        unique,
        partiality_min=0.05,
        min_reflections=5,
        n_groups=1,
    )
    expected = {
        3: Fate.FAILED,
        12: Fate.ABSENT,
        13: Fate.RESOLUTION,
        14: Fate.PARTIALITY,
        15: Fate.FAILED,
        16: Fate.FEW,
    }
    assert fate.tolist() == [expected.get(i, Fate.USED) for i in range(n)]
    assert count.tolist() == [11, 0] and obs.n_lattices == 1 and len(obs.unique) == 11


def test_best_partiality_is_the_quantile():
    rng = np.random.default_rng(8)
    p = rng.random(40000) * 0.8
    shell = rng.integers(0, merging.N_SHELLS, 40000)
    group = rng.integers(0, 5, 40000)
    best = merging.best_partiality(p, shell, group, 5)
    expected = [np.quantile(p[shell == i], 0.97) for i in range(merging.N_SHELLS)]
    np.testing.assert_allclose(best, expected, atol=0.011)
