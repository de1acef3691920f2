"""Indexing: lattices of known orientation come back, noise stays noise, and another simulator's
stills index.
"""

import json
from typing import NamedTuple

import h5py
import numpy as np
import pytest

from spreadflow.analysis.still import indexing, spots
from spreadflow.analysis.still.search_space import Target, target_of
from spreadflow.models import Detector, Spots
from spreadflow.physics import geometry, rotation, symmetry, unit_cell
from spreadflow.units import wavelength

ENERGY = 7120.0
C2 = ((67.2, 59.8, 47.2, 90, 110.3, 90), "C 1 2 1")


class Still(NamedTuple):
    """The strongest spots of a simulated crystal; columns (spot,)."""

    A: np.ndarray
    """(3, 3) Å⁻¹"""
    hkl: np.ndarray
    """(spot, 3)"""
    fast: np.ndarray
    """observed, px"""
    slow: np.ndarray
    weights: np.ndarray
    """at least 1"""


def _target(cell=C2[0], space_group=C2[1]) -> Target:
    """Return the search space of a cell with angles in degrees."""
    return target_of(unit_cell.radians(cell), space_group)


def _detector(shift_mm: float = 0.0) -> Detector:
    """Return a detector of 1920² pixels of 0.177 mm at 141.7 mm, moved along both axes."""
    return Detector(
        origin_mm=np.array([[-169.92 - shift_mm, 169.92 + shift_mm, -141.7]]),
        fast=np.array([[1.0, 0, 0]]),
        slow=np.array([[0.0, -1, 0]]),
        pixel_mm=0.177,
        shape=(1920, 1920),
    )


def _q(fast, slow) -> np.ndarray:
    """Return q (spot, 3), Å⁻¹, by the file's geometry and the mean energy."""
    s1 = geometry.direction(_detector(), np.zeros(len(fast), dtype=int), fast, slow)
    return (s1 - geometry.S0) / wavelength(ENERGY)


def _still(rng, cell, space_group, n_spots=80, d_min=2.0) -> Still:
    """Return the strongest spots of a crystal in a random orientation.

    It has 0.05° mosaic spread, 4000 Å domains, 5 eV of bandwidth that moves each spot along its
    radius to the energy it reflects, 0.2 px noise, and a detector half a pixel from where it is
    believed to be.
    """
    A = rotation.random(rng) @ unit_cell.reciprocal(unit_cell.radians(cell))
    hkl = unit_cell.all_indices(A, d_min)
    hkl = hkl[~symmetry.is_absent(hkl, space_group)]
    q = hkl @ A.T
    size = np.linalg.norm(q, axis=1)
    in_plane = np.hypot(q[:, 0], q[:, 1])
    half_wavelength = wavelength(ENERGY) / 2
    theta = np.arcsin(np.clip(size * half_wavelength, 1e-9, 0.99))
    tangent = np.tan(theta)

    # how strong a node is at its distance ψ from the Ewald sphere
    psi = (q[:, 2] - size**2 * half_wavelength) / in_plane
    mosaic2 = np.deg2rad(0.05) ** 2 + (0.44 / (4000 * size)) ** 2
    band2 = (5.0 / ENERGY * tangent) ** 2
    width2 = mosaic2 + band2
    excited = np.exp(-5.0 * size**2 - psi**2 / 2 / width2)
    strength = rng.exponential(size=len(q)) * excited / size

    # where it is, at the energy it reflects
    change = np.clip(psi * band2 / width2 / tangent, -0.002, 0.002)
    sine = size * half_wavelength * (1 + change)
    two_theta = 2 * np.arcsin(np.clip(sine, 0, 1))
    direction = q[:, :2] / in_plane[:, None]
    across = direction * np.sin(two_theta)[:, None]
    s1 = np.column_stack([across, -np.cos(two_theta)])
    panel, fast, slow = geometry.intersect(_detector(0.0885), s1)

    best = np.argsort(-strength * (panel >= 0))[:n_spots]
    fast_noise, slow_noise = rng.normal(size=(2, n_spots)) * 0.2
    return Still(
        A=A,
        hkl=hkl[best],
        fast=fast[best] + fast_noise,
        slow=slow[best] + slow_noise,
        weights=strength[best] / strength[best].min(),
    )


def _junk(rng, n):
    """Return fast and slow (n,), px, of spots of no lattice."""
    size = rng.uniform(0.05, 0.5, n)
    angle = rng.uniform(0, 2 * np.pi, n)
    two_theta = 2 * np.arcsin(size * wavelength(ENERGY) / 2)
    radius = 141.7 * np.tan(two_theta) / 0.177
    return 960 + radius * np.cos(angle), 960 + radius * np.sin(angle)


def _overlay(rng, stills, outliers):
    """Return q and weights of stills laid over each other, of whose spots the fraction `outliers`
    belongs to no lattice, with the same weights.
    """
    weights = np.concatenate([still.weights for still in stills])
    weights = np.minimum(weights, 20.0)
    n_junk = int(len(weights) * outliers / (1 - outliers))
    junk_fast, junk_slow = _junk(rng, n_junk)
    weights = np.append(weights, rng.choice(weights, n_junk))

    fast = np.concatenate([*(still.fast for still in stills), junk_fast])
    slow = np.concatenate([*(still.slow for still in stills), junk_slow])
    return _q(fast, slow), weights


def _check(candidate, still: Still, hkl_found, space_group):
    """Assert that the orientation is within 0.5°, nearly all spots are indexed, and every index is
    right.
    """
    assert symmetry.misorientation(candidate.A, still.A, space_group) < np.deg2rad(0.5)
    assert np.linalg.det(candidate.A) > 0

    is_indexed = hkl_found.any(axis=1)
    assert is_indexed.mean() > 0.95
    to_true = symmetry.same_indices(candidate.A, still.A, space_group)
    is_right = (hkl_found @ to_true.T == still.hkl).all(axis=1)
    assert is_right[is_indexed].mean() > 0.99
    assert not symmetry.is_centring_absent(hkl_found[is_indexed], space_group).any()


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
        (candidate,) = indexing.find_lattices(q, weights, _target(expected, space_group))
        _check(candidate, still, candidate.hkl[:n_spots], space_group)
        assert candidate.n_indexed == candidate.hkl.any(axis=1).sum()


@pytest.mark.stage
@pytest.mark.parametrize(
    "case", ["monoclinic C, target wrong by 3 degrees and 3 %", "triclinic", "rhombohedral"]
)
def test_two_lattices_in_one_shot(case):
    cell, space_group, expected, n_spots, d_min = CASES[case]
    rng = np.random.default_rng(21)
    stills = [_still(rng, cell, space_group, n_spots, d_min) for _ in range(2)]
    q, weights = _overlay(rng, stills, 0.1)
    target = _target(expected, space_group)
    one, two = indexing.find_lattices(q, weights, target, max_lattices=3)

    assert not (one.hkl.any(axis=1) & two.hkl.any(axis=1)).any()
    for k, still in enumerate(stills):
        turns = [symmetry.misorientation(c.A, still.A, space_group) for c in (one, two)]
        nearest = (one, two)[np.argmin(turns)]
        own = slice(k * n_spots, (k + 1) * n_spots)
        _check(nearest, still, nearest.hkl[own], space_group)


@pytest.mark.stage
def test_few_spots_are_enough():
    target = _target((67.2, 59.8, 47.2, 90, 113.2, 90))
    n_right = 0
    for seed in range(20):
        rng = np.random.default_rng([31, seed])
        still = _still(rng, *C2, n_spots=14)
        q, weights = _overlay(rng, [still], 0.2)
        for candidate in indexing.find_lattices(q, weights, target):
            turn = symmetry.misorientation(candidate.A, still.A, C2[1])
            n_right += turn < np.deg2rad(0.5)

    assert n_right >= 19


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
        target = _target(expected, space_group)
        limits = {"min_indexed": 4, "min_fraction": min_fraction}
        assert indexing.find_lattices(q, np.ones(n), target, **limits) == []


@pytest.mark.stage
def test_another_crystal_is_no_lattice():
    for seed in range(5):
        rng = np.random.default_rng([51, seed])
        still = _still(rng, (79, 79, 38, 90, 90, 90), "P 43 21 2")
        q = _q(still.fast, still.slow)
        assert indexing.find_lattices(q, still.weights, _target()) == []


def test_the_answer_turns_with_the_crystal():
    """Rotating all spots rotates the solution: no direction of the laboratory is special."""
    rng = np.random.default_rng(61)
    still = _still(rng, *C2)
    q = _q(still.fast, still.slow)
    turn = rotation.random(rng)
    (one,) = indexing.find_lattices(q, still.weights, _target())
    (two,) = indexing.find_lattices(q @ turn.T, still.weights, _target())

    assert symmetry.misorientation(turn @ one.A, two.A, C2[1]) < 1e-5


def test_nothing_and_nonsense_make_no_lattice():
    target = _target()
    junk = _q(*_junk(np.random.default_rng(0), 30))

    nothing = np.zeros((0, 3))
    not_numbers = np.full((30, 3), np.nan)
    all_the_same = np.full((30, 3), 0.1)
    for q in (nothing, not_numbers, all_the_same):
        assert indexing.find_lattices(q, np.ones(len(q)), target) == []
    assert indexing.find_lattices(junk, np.zeros(30), target) == []


@pytest.mark.stage
@pytest.mark.parametrize("beta", [110.3, 113.2])
def test_stills_of_another_simulator(shared_data, beta):
    """nanoBragg stills with the file's wrong beam centre: the true orientation and the true
    indices.
    """
    folder = shared_data / "nanobragg_c2"
    truth = json.loads((folder / "truth.json").read_text())
    target = _target((67.2, 59.8, 47.2, 90.0, beta, 90.0))
    with h5py.File(folder / "stills.nxs") as file:
        mask = file["entry/instrument/detector/pixel_mask"][()][None] == 0
        for k in range(0, 24, 3):
            image = file["entry/data/data"][k][None].astype(np.float32) - truth["adc_offset"]
            shot = truth["images"][k]
            found = spots.find(image, mask)
            q, true_q = (
                _q_of_spots(found, _detector(shift), shot["mean_wavelength_angstrom"])
                for shift in (0.0, 0.0885)
            )
            weights = np.minimum(found.intensity / found.sigma, 20.0)
            (candidate,) = indexing.find_lattices(q, weights, target, max_lattices=2)

            A = np.array(shot["lattices"][0]["A"])
            assert symmetry.misorientation(candidate.A, A, "C 1 2 1") < np.deg2rad(0.1)
            is_indexed = candidate.hkl.any(axis=1)
            assert is_indexed.mean() > 0.9

            true_hkl = np.rint(np.linalg.solve(A, true_q.T).T)
            to_true = symmetry.same_indices(candidate.A, A, "C 1 2 1")
            is_right = (candidate.hkl @ to_true.T == true_hkl).all(axis=1)
            assert is_right[is_indexed].mean() > 0.99


def _q_of_spots(found: Spots, detector: Detector, wavelength_ang: float) -> np.ndarray:
    """Return q (spot, 3), Å⁻¹, of spots by a detector's geometry."""
    s1 = geometry.direction(detector, found.panel, found.fast, found.slow)
    return (s1 - geometry.S0) / wavelength_ang
