"""Unique reflections and weighted means against gemmi; nothing depends on order, groups or half-set
bookkeeping.
"""

import gemmi
import numpy as np
import pytest

from spreadflow.analysis import identity_hash
from spreadflow.analysis.merging import merging, selection
from spreadflow.analysis.merging.selection import Fate
from spreadflow.models import ReflectionFlag
from spreadflow.products.index import Reflections

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
    """Return random equivalents (n, 3), of both hands, of the unique reflections."""
    rng = np.random.default_rng(seed)
    operations = unique.space_group.operations().sym_ops
    rotations = np.array([operation.rot for operation in operations]) // gemmi.Op.DEN
    chosen = rng.integers(0, len(unique), n)
    turn = rng.integers(0, len(rotations), n)
    sign = rng.choice([-1, 1], n)
    equivalents = np.einsum("ni,nij->nj", unique.hkl[chosen], rotations[turn])
    return (sign[:, None] * equivalents).astype(np.int32)


def observations(
    unique: merging.Unique, seed: int, n: int = 4000
) -> tuple[merging.Observations, np.ndarray, np.ndarray]:
    """Return the observations of an invented experiment, their Miller indices and σ."""
    rng = np.random.default_rng(seed)
    hkl = scattered(unique, seed, n)
    lattice = np.sort(rng.integers(0, 40, n))
    sigma = rng.uniform(0.5, 3.0, n)
    shot_id = rng.integers(0, 2**63, 40).astype(np.uint64)
    obs = merging.Observations(
        lattice=lattice,
        group=np.arange(40) * N_GROUPS // 40,
        half=identity_hash.half_sets(shot_id),
        unique=unique.rows(hkl),
        s2=np.ones(n),
        intensity=rng.normal(5.0, 4.0, n),
        variance=sigma**2,
        factor=np.ones(n),
        partiality=np.ones(n),
        slopes=np.zeros((n, 3)),
    )
    return obs, hkl, sigma


def merge(unique, obs, sigma, min_multiplicity=1) -> merging.Merged:
    """Return the merged observations."""
    sums = merging.Sums(obs, len(unique))
    return merging.merge(obs, obs.intensity, sigma, sums, min_multiplicity)


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
    merged = merge(unique, obs, sigma)
    data = gemmi.Intensities()
    data.set_data(unique.cell, unique.space_group, hkl, obs.intensity, sigma)
    data.merge_in_place(kind)
    index = np.array(data.miller_array)
    sign = np.array(data.isign_array)
    is_measured = merged.n > 0
    n = merged.n
    weight = np.where(is_measured, merged.sigma**-2, 0.0)
    weighted = np.where(is_measured, weight * np.nan_to_num(merged.intensity), 0.0)
    if kind == gemmi.DataType.Mean:
        is_acentric = unique.mate >= 0
        mate = np.where(is_acentric, unique.mate, np.arange(len(unique)))
        weight = weight + is_acentric * weight[mate]
        weighted = weighted + is_acentric * weighted[mate]
        n = n + is_acentric * n[mate]
        row = unique.rows(index)
        assert len(row) > 0
    else:
        row = unique.rows(np.where(sign[:, None] < 0, -index, index))
        assert len(row) == is_measured.sum()

    np.testing.assert_allclose(weighted[row] / weight[row], data.value_array, rtol=1e-9)
    np.testing.assert_allclose(weight[row] ** -0.5, data.sigma_array, rtol=1e-9)
    np.testing.assert_array_equal(n[row], data.nobs_array)


def test_half_sets_are_the_means_of_their_lattices(unique):
    obs, _, sigma = observations(unique, 3)
    merged = merge(unique, obs, sigma)
    for half in (0, 1):
        in_half = obs.half[obs.lattice] == half
        for row in np.unique(obs.unique)[::50]:
            rows = np.flatnonzero(in_half & (obs.unique == row))
            expected = np.nan
            if len(rows):
                expected = np.average(obs.intensity[rows], weights=sigma[rows] ** -2.0)
            np.testing.assert_allclose(merged.half[row, half], expected, rtol=1e-12)


def test_sums_do_not_depend_on_who_holds_which_group(unique):
    """Three holders of groups, one of them of none: the same bits."""
    obs, _, _ = observations(unique, 5)
    weight = 10.0 ** np.random.default_rng(5).uniform(-8, 8, len(obs.unique))
    whole = merging.Sums(obs, len(unique)).by_unique(weight, obs.intensity)
    tables: dict[int, np.ndarray] = {}

    def add(blocks, shape):
        tables.update((group, table.copy()) for group, table in blocks)
        return np.zeros(shape)

    for holder in range(3):
        is_own = obs.group % 2 == holder
        held = np.flatnonzero(is_own[obs.lattice])
        part = obs._replace(
            lattice=(np.cumsum(is_own) - 1)[obs.lattice[held]],
            group=obs.group[is_own],
            unique=obs.unique[held],
        )
        sums = merging.Sums(part, len(unique), add)
        sums.by_unique(weight[held], obs.intensity[held])

    assert sorted(tables) == list(range(N_GROUPS))
    joined = merging.add_in_order(sorted(tables.items()), whole.T.shape)
    np.testing.assert_array_equal(joined.T, whole)


def test_sums_of_some_groups_are_those_of_their_observations(unique):
    obs, _, _ = observations(unique, 7)
    some = merging.Sums(obs, len(unique)).of_every(2)
    is_in = obs.group[obs.lattice] % 2 == 0
    expected = np.bincount(obs.unique[is_in], obs.intensity[is_in], len(unique))
    np.testing.assert_allclose(some.by_unique(obs.intensity)[0], expected, rtol=1e-12)
    np.testing.assert_array_equal(some.counts, obs.group % 2 == 0)
    (n_lattices,) = some.over_lattices(np.ones(obs.n_lattices))
    assert n_lattices == some.counts.sum() < obs.n_lattices


def test_merging_does_not_depend_on_the_order_within_a_lattice(unique):
    obs, _, sigma = observations(unique, 6)
    merged = merge(unique, obs, sigma)
    order = np.lexsort([np.random.default_rng(6).random(len(sigma)), obs.lattice])
    other = obs._replace(unique=obs.unique[order], intensity=obs.intensity[order])
    again = merge(unique, other, sigma[order])

    np.testing.assert_allclose(again.intensity, merged.intensity, rtol=1e-12)


def test_what_is_measured_too_few_times_is_not_measured(unique):
    obs, _, sigma = observations(unique, 7)
    every = merge(unique, obs, sigma)
    often = merge(unique, obs, sigma, min_multiplicity=3)
    is_rare = every.n < 3

    assert is_rare.any()
    assert (often.n[is_rare] == 0).all()
    assert np.isnan(often.intensity[is_rare]).all()
    np.testing.assert_array_equal(often.intensity[~is_rare], every.intensity[~is_rare])


def test_every_reflection_has_one_fate():
    """One reflection of each kind, and each is found out."""
    unique = merging.Unique(np.array(CRYSTALS["C 1 2 1"]), "C 1 2 1", 3.0)
    hkl = np.array([[1, 1, 1]] * 12 + [[1, 2, 0], [40, 0, 0], [1, 1, 2], [1, 1, 2], [1, 1, 2]])
    n = len(hkl)
    lattice = np.zeros(n, dtype=np.int64)
    lattice[-1] = 1
    reflections = Reflections(
        lattice=lattice,
        hkl=hkl,
        partiality=np.where(np.arange(n) == 14, 0.01, 1.0),
        lorentz=np.ones(n),
        polarization=np.ones(n),
        capture=np.ones(n),
        slopes=np.zeros((n, 3)),
        intensity=np.ones(n),
        sigma_background=np.where(np.arange(n) == 15, 0.0, 1.0),
        flags=np.where(np.arange(n) == 3, ReflectionFlag.MASKED, 0),
    )
    obs, count, fate = selection.select(
        reflections,
        selection.Lattices(
            group=np.zeros(2, dtype=np.int64), half=np.zeros(2, dtype=np.int8), pulse=np.ones(2)
        ),
        unique,
        partiality_min=0.05,
        min_reflections=5,
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
    assert count.tolist() == [11, 0]
    assert obs.n_lattices == 1
    assert len(obs.unique) == 11


def test_factors_are_products_in_double_precision():
    """Columns are float32 in files; their product is rounded once."""
    unique = merging.Unique(np.array(CRYSTALS["C 1 2 1"]), "C 1 2 1", 3.0)
    rng = np.random.default_rng(9)
    n = 50
    names = ("partiality", "lorentz", "polarization", "capture")
    columns = {name: rng.uniform(0.3, 1.0, n).astype(np.float32) for name in names}
    pulse = np.array([0.7])
    expected = pulse[0] * np.prod(
        [column.astype(np.float64) for column in columns.values()], axis=0
    )
    reflections = Reflections(
        lattice=np.zeros(n, np.int32),
        hkl=np.tile([1, 1, 1], (n, 1)),
        slopes=np.zeros((n, 3), np.float32),
        intensity=np.ones(n, np.float32),
        sigma_background=np.ones(n, np.float32),
        flags=np.zeros(n, np.int32),
        **columns,
    )
    lattices = selection.Lattices(group=np.zeros(1, int), half=np.zeros(1, int), pulse=pulse)
    obs, _, _ = selection.select(
        reflections, lattices, unique, partiality_min=0.0, min_reflections=1
    )

    np.testing.assert_allclose(obs.factor, expected, rtol=0.5 * np.finfo(np.float32).eps)


def test_photons_over_what_is_expected_are_numbers_in_single_precision():
    """A reflection of which next to nothing is expected would make its mean infinite."""
    unique = merging.Unique(np.array(CRYSTALS["C 1 2 1"]), "C 1 2 1", 3.0)
    ones = np.ones(3, np.float32)
    reflections = Reflections(
        lattice=np.zeros(3, np.int32),
        hkl=np.tile([1, 1, 1], (3, 1)),
        partiality=np.array([0.5, 1e-15, 1e-36], np.float32),
        lorentz=ones,
        polarization=ones,
        capture=ones,
        slopes=np.zeros((3, 3), np.float32),
        intensity=1e6 * ones,
        sigma_background=ones,
        flags=np.zeros(3, np.int32),
    )
    lattices = selection.Lattices(np.zeros(1, int), np.zeros(1, int), pulse=np.ones(1))
    obs, _, fate = selection.select(
        reflections, lattices, unique, partiality_min=0.0, min_reflections=1
    )

    assert fate.tolist() == [Fate.USED, Fate.USED, Fate.FAILED]
    assert np.isfinite(obs.intensity / obs.factor).all()


def test_best_partiality_is_the_quantile():
    rng = np.random.default_rng(8)
    p = rng.random(40000) * 0.8
    shell = rng.integers(0, merging.N_SHELLS, 40000)
    group = rng.integers(0, 5, 40000)
    best = selection.best_partiality(p, shell.astype(np.int8), group, np.arange(5))
    expected = [np.quantile(p[shell == i], 0.97) for i in range(merging.N_SHELLS)]

    np.testing.assert_allclose(best, expected, atol=0.011)
