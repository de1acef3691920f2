"""Found tables made from a planted truth: every comparison returns what was planted."""

import numpy as np
import pytest

from spreadflow.errors import RefinedOutcome
from spreadflow.physics import rotation, symmetry, unit_cell
from spreadflow.products import Stage1
from spreadflow.report import truth, truth_of_fits

GROUP = "C 1 2 1"
B = unit_cell.reciprocal(unit_cell.radians([67.2, 59.8, 47.2, 90.0, 110.3, 90.0]))
KINDS = [truth.SINGLE] * 6 + [truth.BLANK, truth.DOUBLE]
LATTICES = [0, 1, 2, 3, 4, 5, 7, 7]
"""Shot of each simulated lattice."""

TILT = np.deg2rad(0.02)
N = 80
"""Simulated reflections of a lattice."""

BACKGROUND = 25.0
"""Variance of an intensity beside its own photons."""


@pytest.fixture(scope="module")
def simulated(filled):
    rng = np.random.default_rng(0)
    hkl = np.concatenate([distinct(rng) for _ in LATTICES])
    n = len(hkl)
    planted = {
        "shots/shot_id": np.arange(100, 100 + len(KINDS)),
        "shots/kind": KINDS,
        "lattices/shot": LATTICES,
        "lattices/A": [rotation.random(rng) @ B for _ in LATTICES],
        "lattices/n_cells": np.full((len(LATTICES), 3), 57.0),
        "lattices/eta_rad": np.full(len(LATTICES), 8e-4),
        "lattices/scale": np.full(len(LATTICES), 90.0),
        "reflections/lattice": np.repeat(np.arange(len(LATTICES)), N),
        "reflections/hkl": hkl,
        "reflections/fast": rng.uniform(10, 990, n),
        "reflections/slow": rng.uniform(10, 990, n),
        "reflections/photons": np.where(np.arange(n) % 2, 5.0, rng.uniform(100, 900, n)),
    }
    return filled(
        "truth", {"shots": len(KINDS), "lattices": len(LATTICES), "reflections": n}, planted
    )


def distinct(rng) -> np.ndarray:
    """Return different Miller indices, (N, 3)."""
    numbers = rng.choice(21**3, N, replace=False)
    h = numbers // 441 - 10
    k = numbers // 21 % 21 - 10
    l = numbers % 21 - 10
    return np.stack([h, k, l], axis=1)


@pytest.fixture
def product(simulated, filled):
    """Each lattice found in another setting of the two-fold and 0.02° off; each bright reflection
    is a spot.

    Shots are in another order. I = I_true + σ z with the z of `deviations`.
    """
    rng = np.random.default_rng(1)
    n_lattices = len(LATTICES)
    n = N * len(LATTICES)
    settings = [symmetry.point_group(GROUP)[i % 2] for i in range(n_lattices)]
    tilts = [
        rotation.from_vector(TILT * axis / np.linalg.norm(axis))
        for axis in rng.standard_normal((n_lattices, 3))
    ]
    pairs = zip(tilts, simulated.lattices.A, settings, strict=True)
    A = np.array([tilt @ A_true @ np.linalg.inv(w) for tilt, A_true, w in pairs])
    lattice = simulated.reflections.lattice
    hkl = np.array(
        [settings[i] @ h for i, h in zip(lattice, simulated.reflections.hkl, strict=True)]
    )
    photons = simulated.reflections.photons
    sigma = np.sqrt(photons + BACKGROUND)
    bright = np.flatnonzero(photons > 50)
    row = np.arange(len(KINDS))[::-1]
    planted = {
        "shots/shot_id": simulated.shots.shot_id[::-1],
        "lattices/shot": row[LATTICES],
        "lattices/A": A,
        "spots/lattice": lattice[bright],
        "spots/hkl": hkl[bright],
        "spots/fast": simulated.reflections.fast[bright] + 0.4,
        "spots/slow": simulated.reflections.slow[bright] - 0.3,
        "spots/intensity": photons[bright],
        "reflections/lattice": lattice,
        "reflections/hkl": hkl,
        "reflections/fast": simulated.reflections.fast + 0.1,
        "reflections/slow": simulated.reflections.slow + 0.1,
        "reflections/intensity": photons + sigma * deviations(n),
        "reflections/sigma": sigma,
    }
    sizes = {"shots": len(KINDS), "spots": len(bright), "lattices": n_lattices, "reflections": n}
    return filled("reindex", sizes, planted)


def deviations(n: int) -> np.ndarray:
    return np.random.default_rng(2).standard_normal(n)


def matched_run(product, simulated) -> truth.MatchedRun:
    return truth.MatchedRun(product, simulated, truth.match(product, simulated, GROUP))


def test_lattices_are_paired_across_settings(product, simulated):
    matched = truth.match(product, simulated, GROUP)
    assert matched.row.tolist() == list(range(len(LATTICES)))
    assert np.allclose(matched.angle, TILT, rtol=1e-4)

    figures = truth.orientations([matched])
    assert figures["misorientation_deg_median"] == pytest.approx(0.02, rel=1e-4)

    counted = truth.counts(matched_run(product, simulated))
    assert counted == {
        "n_singles": 6,
        "n_singles_indexed": 6,
        "n_blanks": 1,
        "n_blanks_with_lattice": 0,
        "n_doubles": 1,
        "n_doubles_both": 1,
        "n_lattices_wrong": 0,
    }


def test_wrong_and_surplus_lattices_are_counted(product, simulated):
    """One single hit is indexed wrongly, a lattice of the double hit is found twice, the blank has
    one.
    """
    rng = np.random.default_rng(3)
    product.lattices.A[2] = rotation.from_vector(np.array([0.3, 0.2, 0.1])) @ product.lattices.A[2]
    product.lattices.A[7] = rotation.from_vector(np.array([0.0, 0.0, 1e-4])) @ product.lattices.A[6]
    product.lattices = product.lattices[[*range(len(LATTICES)), 0]]
    product.lattices.shot[-1] = len(KINDS) - 1 - 6
    product.lattices.A[-1] = rotation.random(rng) @ B
    counted = truth.counts(matched_run(product, simulated))

    assert counted["n_singles_indexed"] == 5
    assert counted["n_doubles_both"] == 0
    assert counted["n_blanks_with_lattice"] == 1
    assert counted["n_lattices_wrong"] == 3


def test_indices_of_spots(product, simulated):
    """At first all are right. Then 7 have a neighbouring index, and one can be explained only by a
    reflection far too weak for it.
    """
    assert truth.indices(matched_run(product, simulated))["miller_right"] == 1.0
    product.spots.hkl[:7, 2] += 1
    product.spots.intensity[10] = 1e6
    figures = truth.indices(matched_run(product, simulated))
    n_spots = len(product.spots.hkl)
    assert figures["n_spots_indexed"] == n_spots
    assert figures["miller_right"] == pytest.approx(1 - 8 / n_spots)


def test_pulls_are_the_planted_deviations_of_single_hits(product, simulated):
    single = np.isin(product.reflections.lattice, range(6))
    product.reflections.flags[::5] = 4
    pulls = truth.pulls(matched_run(product, simulated))
    is_good = product.reflections.flags == 0
    expected = deviations(len(single))[single & is_good]

    assert np.allclose(np.sort(pulls), np.sort(expected), atol=1e-4)


def test_recall_counts_strong_reflections_on_the_panel_in_the_resolution(product, simulated):
    """Of the bright reflections of single hits (the weak are below 3 σ) 30 are not predicted."""
    shape = (1000, 1000)
    full = truth.recall(matched_run(product, simulated), 0.5, shape)
    bright = np.flatnonzero(
        (simulated.reflections.photons > 50) & (simulated.reflections.lattice < 6)
    )

    assert full == {"n_strong_true": len(bright), "prediction_recall": 1.0}

    product.reflections.hkl[bright[:30]] = [50, 50, 50]
    partial = truth.recall(matched_run(product, simulated), 0.5, shape)
    assert partial["prediction_recall"] == pytest.approx(1 - 30 / len(bright))

    d = np.array(
        [
            unit_cell.spacing(
                simulated.lattices.A[simulated.reflections.lattice[j]],
                simulated.reflections.hkl[j],
            )
            for j in bright
        ]
    )
    inside = (d >= 8.0) & (simulated.reflections.fast[bright] < 500)
    figures = truth.recall(matched_run(product, simulated), 8.0, (1000, 500))

    assert figures["n_strong_true"] == inside.sum() > 5


def test_shots_without_truth_are_left_alone(product, simulated):
    product.shots.shot_id = product.shots.shot_id + 1000
    matched = truth.match(product, simulated, GROUP)
    assert (matched.row == -1).all()
    assert (matched.kind == -1).all()
    assert truth.orientations([matched])["misorientation_deg_median"] is None


UNKNOWNS = [
    "scale",
    "rotation_1",
    "rotation_2",
    "rotation_3",
    "cell_1",
    "n_cells_1",
    "n_cells_2",
    "n_cells_3",
    "eta_1",
    "eta_2",
    "eta_3",
]


ETA_AWAY = np.array([0.04, 0.02, -0.02])
"""ln of η of the product over that of the truth, by axis"""


def refined(simulated, filled, outcomes: list[list[RefinedOutcome]]) -> tuple[Stage1, dict]:
    """Return product and attributes of stage 1 for as many runs: the first lattices of `simulated`,
    with N and η wrong along each axis, and the cell wrong by half of its σ.
    """
    ends = np.concatenate([np.array(ends, dtype=int) for ends in outcomes])
    row = np.concatenate([np.arange(len(ends)) for ends in outcomes])
    A = simulated.lattices.A[row]
    n = len(ends)
    planted = {
        "lattices/run": np.repeat(np.arange(len(outcomes)), [len(ends) for ends in outcomes]),
        "lattices/shot_id": simulated.shots.shot_id[simulated.lattices.shot[row]],
        "lattices/outcome": ends,
        "lattices/A": A,
        "lattices/misset_rad": np.zeros((n, 3)),
        "lattices/cell": np.array([unit_cell.cell_of(a) for a in A]) + 0.01,
        "lattices/cell_sigma": np.full((n, 6), 0.02),
        "lattices/n_cells": simulated.lattices.n_cells[row] * np.exp([0.01, -0.02, 0.03]),
        "lattices/eta_rad": simulated.lattices.eta_rad[row],
        "lattices/eta_axes_rad": simulated.lattices.eta_rad[row, None] * np.exp(ETA_AWAY),
        "lattices/scale": simulated.lattices.scale[row],
        "lattices/sigma_fisher": np.full((n, 11), 0.02),
        "lattices/sigma_sandwich": np.full((n, 11), 0.04),
    }
    attributes = {"space_group": GROUP, "unknowns": UNKNOWNS, "config": {"uncertainty": "sandwich"}}
    return filled("stage1", {"lattices": n, "unknown": 11}, planted), attributes


@pytest.mark.parametrize("first", [RefinedOutcome.LOST, RefinedOutcome.REFINED])
def test_a_run_without_refined_lattices_takes_nothing_from_the_others(simulated, filled, first):
    """Whichever of the two runs comes first."""
    last = RefinedOutcome.LOST if first == RefinedOutcome.REFINED else RefinedOutcome.REFINED
    stage1, attributes = refined(simulated, filled, [[first] * 2, [last] * 2])
    against = truth_of_fits.refinement(stage1, attributes, [simulated, simulated])
    assert len(against.angle) == 2
    assert against.angle.max() < 1e-6
    np.testing.assert_allclose(against.pulls["sandwich"]["cell"], 0.5)
    assert len(against.pulls["sandwich"]["rotation"]) == 6
    assert "cell" not in against.pulls["fisher"]
    assert against.ratios["scale"].tolist() == [1.0, 1.0]


def test_each_axis_has_its_pull_where_each_has_its_own_cells_and_spread(simulated, filled):
    stage1, attributes = refined(simulated, filled, [[RefinedOutcome.REFINED] * 3])
    against = truth_of_fits.refinement(stage1, attributes, [simulated])
    fisher = against.pulls["fisher"]
    sandwich = against.pulls["sandwich"]

    np.testing.assert_allclose(fisher["n_cells"], np.tile([0.5, -1.0, 1.5], 3))
    np.testing.assert_allclose(sandwich["n_cells"], np.tile([0.25, -0.5, 0.75], 3))
    np.testing.assert_allclose(fisher["eta"], np.tile(ETA_AWAY / 0.02, 3), rtol=1e-9)
    assert fisher.keys() == {"scale", "rotation", "n_cells", "eta"}
