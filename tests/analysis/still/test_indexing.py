"""Indexing: lattices of known orientation come back, noise stays noise, and another simulator's
stills index.
"""

import json

import h5py
import numpy as np
import pytest

from spreadflow.analysis.still import indexing, spots
from spreadflow.models import Detector
from spreadflow.physics import geometry, rotation, symmetry, unit_cell
from spreadflow.units import wavelength

ENERGY = 7120.0
C2 = ((67.2, 59.8, 47.2, 90, 110.3, 90), "C 1 2 1")


def _detector(shift_mm: float = 0.0) -> Detector:
    """1920² pixels of 0.177 mm at 141.7 mm, moved along both axes."""
    origin = np.array([[-169.92 - shift_mm, 169.92 + shift_mm, -141.7]])
    return Detector(origin, np.array([[1.0, 0, 0]]), np.array([[0.0, -1, 0]]), 0.177, (1920, 1920))


def _q(fast, slow) -> np.ndarray:
    """What the file's geometry and the mean energy make of the spots."""
    s1 = geometry.direction(_detector(), np.zeros(len(fast), dtype=int), fast, slow)
    return (s1 - geometry.S0) / wavelength(ENERGY)


def _still(rng, cell, space_group, n_spots=80, d_min=2.0):
    """A, hkl and observed (fast, slow) of the strongest spots of a crystal in a random orientation.

    0.05° mosaic, 4000 Å domains, 5 eV of bandwidth that moves each spot along its radius to the
    energy it reflects, 0.2 px noise, and a detector half a pixel from where it is believed to be.
    """
    A = rotation.random(rng) @ unit_cell.reciprocal(unit_cell.radians(cell))
    hkl = unit_cell.all_indices(A, d_min)
    hkl = hkl[~symmetry.is_absent(hkl, space_group)]
    q = hkl @ A.T
    size = np.linalg.norm(q, axis=1)
    in_plane = np.hypot(q[:, 0], q[:, 1])
    tangent = np.tan(np.arcsin(np.clip(size * wavelength(ENERGY) / 2, 1e-9, 0.99)))
    psi = (q[:, 2] - size**2 * wavelength(ENERGY) / 2) / in_plane
    mosaic2 = np.deg2rad(0.05) ** 2 + (0.44 / (4000 * size)) ** 2
    band2 = (5.0 / ENERGY * tangent) ** 2
    strength = (
        rng.exponential(size=len(q))
        * np.exp(-5.0 * size**2 - psi**2 / 2 / (mosaic2 + band2))
        / size
    )
    change = np.clip(psi * band2 / (mosaic2 + band2) / tangent, -0.002, 0.002)
    two_theta = 2 * np.arcsin(np.clip(size * wavelength(ENERGY) * (1 + change) / 2, 0, 1))
    s1 = np.column_stack(
        [q[:, :2] / in_plane[:, None] * np.sin(two_theta)[:, None], -np.cos(two_theta)]
    )
    panel, fast, slow = geometry.intersect(_detector(0.0885), s1)
    best = np.argsort(-strength * (panel >= 0))[:n_spots]
    noise = rng.normal(size=(2, n_spots)) * 0.2
    return (
        A,
        hkl[best],
        fast[best] + noise[0],
        slow[best] + noise[1],
        strength[best] / strength[best].min(),
    )


def _junk(rng, n):
    """(fast, slow) of n spots of no lattice."""
    size = rng.uniform(0.05, 0.5, n)
    angle = rng.uniform(0, 2 * np.pi, n)
    radius = 141.7 * np.tan(2 * np.arcsin(size * wavelength(ENERGY) / 2)) / 0.177
    return 960 + radius * np.cos(angle), 960 + radius * np.sin(angle)


def _overlay(rng, stills, outliers):
    """q and weights of stills laid over each other, `outliers` of all spots being junk with the
    same weights.
    """
    n = sum(len(s[1]) for s in stills)
    weights = np.minimum(np.concatenate([s[4] for s in stills]), 20.0)
    fast, slow = _junk(rng, int(n * outliers / (1 - outliers)))
    weights = np.append(weights, rng.choice(weights, len(fast)))
    q = _q(
        np.concatenate([*(s[2] for s in stills), fast]),
        np.concatenate([*(s[3] for s in stills), slow]),
    )
    return q, weights


def _check(candidate, A, hkl, hkl_found, space_group):
    """Orientation within 0.5°, nearly all spots indexed, every index right."""
    assert symmetry.misorientation(candidate.A, A, space_group) < np.deg2rad(0.5)
    found = hkl_found.any(axis=1)
    assert found.mean() > 0.95
    same = hkl_found @ symmetry.same_indices(candidate.A, A, space_group).T == hkl
    assert same[found].all(axis=1).mean() > 0.99
    assert not symmetry.is_centring_absent(hkl_found[found], space_group).any()
    assert np.linalg.det(candidate.A) > 0


CASES = {
    "monoclinic C": (*C2, C2[0], 80, 2.0),
    "monoclinic C, target wrong by 3 degrees and 3 %": (
        *C2,
        (69.2, 58.1, 48.5, 90, 113.2, 90),
        80,
        2.0,
    ),
    "monoclinic I": (
        (52, 59.8, 47.2, 90, 101, 90),
        "I 1 2 1",
        (52.5, 59, 47.5, 90, 103, 90),
        80,
        2.0,
    ),
    "very oblique": ((35, 60, 120, 90, 140, 90), "P 1 21 1", (35.5, 59, 122, 90, 139, 90), 80, 2.0),
    "long axis": ((107, 107, 304, 90, 90, 90), "P 41 21 2", (109, 109, 312, 90, 90, 90), 200, 3.5),
    "two long axes": (
        (35, 150, 190, 90, 99, 90),
        "P 1 21 1",
        (35.5, 153, 186, 90, 100, 90),
        150,
        2.5,
    ),
    "triclinic": ((41, 52, 63, 78, 99, 107), "P 1", (42, 51.5, 64.5, 80, 97.5, 105), 80, 2.0),
    "cubic F": ((120, 120, 120, 90, 90, 90), "F 4 3 2", (123, 123, 123, 90, 90, 90), 80, 2.0),
    "rhombohedral": ((90, 90, 140, 90, 90, 120), "R 3 2:H", (92, 92, 137, 90, 90, 120), 80, 2.0),
    "hexagonal": ((92, 92, 130, 90, 90, 120), "P 61 2 2", (90, 90, 132, 90, 90, 120), 80, 2.0),
    "tetragonal I": ((78, 78, 38, 90, 90, 90), "I 4 2 2", (80, 80, 37.3, 90, 90, 90), 80, 2.0),
}


@pytest.mark.stage
@pytest.mark.parametrize("case", CASES)
def test_lattice_is_recovered_among_outliers(case):
    cell, space_group, expected, n_spots, d_min = CASES[case]
    for seed in range(3):
        rng = np.random.default_rng([11, seed])
        still = _still(rng, cell, space_group, n_spots, d_min)
        q, weights = _overlay(rng, [still], 0.25)
        found = indexing.find_lattices(q, weights, unit_cell.radians(expected), space_group)
        assert len(found) == 1
        _check(found[0], still[0], still[1], found[0].hkl[:n_spots], space_group)
        assert found[0].n_indexed == found[0].hkl.any(axis=1).sum()


@pytest.mark.stage
@pytest.mark.parametrize(
    "case", ["monoclinic C, target wrong by 3 degrees and 3 %", "triclinic", "rhombohedral"]
)
def test_two_lattices_in_one_shot(case):
    cell, space_group, expected, n_spots, d_min = CASES[case]
    rng = np.random.default_rng(21)
    stills = [_still(rng, cell, space_group, n_spots, d_min) for _ in range(2)]
    q, weights = _overlay(rng, stills, 0.1)
    found = indexing.find_lattices(
        q, weights, unit_cell.radians(expected), space_group, max_lattices=3
    )
    assert len(found) == 2
    assert not (found[0].hkl.any(axis=1) & found[1].hkl.any(axis=1)).any()
    for k, still in enumerate(stills):
        best = min(found, key=lambda c: symmetry.misorientation(c.A, still[0], space_group))
        _check(best, still[0], still[1], best.hkl[k * n_spots : (k + 1) * n_spots], space_group)


@pytest.mark.stage
def test_few_spots_are_enough():
    right = 0
    for seed in range(20):
        rng = np.random.default_rng([31, seed])
        still = _still(rng, *C2, n_spots=14)
        q, weights = _overlay(rng, [still], 0.2)
        found = indexing.find_lattices(
            q, weights, unit_cell.radians((67.2, 59.8, 47.2, 90, 113.2, 90)), C2[1]
        )
        right += bool(found) and symmetry.misorientation(found[0].A, still[0], C2[1]) < np.deg2rad(
            0.5
        )
    assert right >= 19


@pytest.mark.stage
@pytest.mark.parametrize("case", ["monoclinic C", "triclinic", "cubic F", "hexagonal"])
@pytest.mark.parametrize(("min_fraction", "n_sets"), [(0.3, 20), (0.05, 6)])
def test_random_spots_are_no_lattice(case, min_fraction, n_sets):
    """However low the fraction asked for, chance alone is not accepted."""
    _, space_group, expected, _, _ = CASES[case]
    for seed in range(n_sets):
        rng = np.random.default_rng([41, seed])
        n = (20, 40, 80, 160)[seed % 4]
        q = _q(*_junk(rng, n))
        settings = {"min_indexed": 4, "min_fraction": min_fraction}
        assert (
            indexing.find_lattices(
                q, np.ones(n), unit_cell.radians(expected), space_group, **settings
            )
            == []
        )


@pytest.mark.stage
def test_another_crystal_is_no_lattice():
    for seed in range(5):
        rng = np.random.default_rng([51, seed])
        still = _still(rng, (79, 79, 38, 90, 90, 90), "P 43 21 2")
        assert (
            indexing.find_lattices(
                _q(still[2], still[3]), still[4], unit_cell.radians(C2[0]), C2[1]
            )
            == []
        )


def test_the_answer_turns_with_the_crystal():
    """Rotating all spots rotates the solution: no direction of the laboratory is special."""
    rng = np.random.default_rng(61)
    still = _still(rng, *C2)
    q = _q(still[2], still[3])
    turn = rotation.random(rng)
    one = indexing.find_lattices(q, still[4], unit_cell.radians(C2[0]), C2[1])[0]
    two = indexing.find_lattices(q @ turn.T, still[4], unit_cell.radians(C2[0]), C2[1])[0]
    assert symmetry.misorientation(turn @ one.A, two.A, C2[1]) < 1e-5


def test_nothing_and_nonsense_make_no_lattice():
    cell = unit_cell.radians(C2[0])
    assert indexing.find_lattices(np.zeros((0, 3)), np.zeros(0), cell, C2[1]) == []
    assert indexing.find_lattices(np.full((30, 3), np.nan), np.ones(30), cell, C2[1]) == []
    assert indexing.find_lattices(np.full((30, 3), 0.1), np.ones(30), cell, C2[1]) == []
    assert (
        indexing.find_lattices(_q(*_junk(np.random.default_rng(0), 30)), np.zeros(30), cell, C2[1])
        == []
    )


@pytest.mark.stage
@pytest.mark.parametrize("beta", [110.3, 113.2])
def test_stills_of_another_simulator(shared_data, beta):
    """nanoBragg stills with the file's wrong beam centre: the true orientation and the true
    indices.
    """
    folder = shared_data / "nanobragg_c2"
    truth = json.loads((folder / "truth.json").read_text())
    cell = unit_cell.radians((67.2, 59.8, 47.2, 90.0, beta, 90.0))
    with h5py.File(folder / "stills.nxs") as file:
        mask = file["entry/instrument/detector/pixel_mask"][()][None] == 0
        for k in range(0, 24, 3):
            image = file["entry/data/data"][k][None].astype(np.float32) - truth["adc_offset"]
            shot = truth["images"][k]
            found = spots.find(image, mask)
            lam = shot["mean_wavelength_angstrom"]
            s1, true_s1 = (
                geometry.direction(_detector(shift), found.panel, found.fast, found.slow)
                for shift in (0.0, 0.0885)
            )
            weights = np.minimum(found.intensity / found.sigma, 20.0)
            (candidate,) = indexing.find_lattices(
                (s1 - geometry.S0) / lam, weights, cell, "C 1 2 1", max_lattices=2
            )
            A = np.array(shot["lattices"][0]["A"])
            assert symmetry.misorientation(candidate.A, A, "C 1 2 1") < np.deg2rad(0.1)
            indexed = candidate.hkl.any(axis=1)
            assert indexed.mean() > 0.9
            true_hkl = np.rint(np.linalg.solve(A, ((true_s1 - geometry.S0) / lam).T).T)
            mine = candidate.hkl @ symmetry.same_indices(candidate.A, A, "C 1 2 1").T
            assert (mine == true_hkl)[indexed].all(axis=1).mean() > 0.99
