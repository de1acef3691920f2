"""Equivalent orientations and indices on oblique axes."""

import gemmi
import numpy as np
import pytest

from spreadflow.physics import rotation, symmetry, unit_cell

CELLS = [
    ((67.2, 59.8, 47.2, 90, 110.3, 90), "C 1 2 1"),
    ((92, 92, 130, 90, 90, 120), "P 61 2 2"),
    ((90, 90, 140, 90, 90, 120), "R 3 2:H"),
    ((120, 120, 120, 90, 90, 90), "F 4 3 2"),
]


@pytest.mark.parametrize(("cell", "name"), CELLS)
def test_a_crystal_turned_by_its_symmetry_is_the_same_crystal(cell, name):
    """The direct basis turns by W from the right: no misorientation, and indices as `same_indices`
    says.
    """
    rng = np.random.default_rng(1)
    A = rotation.random(rng) @ unit_cell.reciprocal(unit_cell.radians(cell))
    hkl = rng.integers(-9, 10, (20, 3))
    for w in symmetry.point_group(name):
        turned = np.linalg.inv(np.linalg.inv(A).T @ w).T
        np.testing.assert_allclose(unit_cell.cell_of(turned), unit_cell.radians(cell), rtol=1e-9)
        assert symmetry.misorientation(turned, A, name) < 1e-7
        np.testing.assert_allclose(
            hkl @ symmetry.same_indices(turned, A, name).T @ A.T, hkl @ turned.T, atol=1e-9
        )


@pytest.mark.parametrize(("cell", "name"), CELLS)
def test_misorientation_is_the_angle_turned_by(cell, name):
    rng = np.random.default_rng(2)
    A = rotation.random(rng) @ unit_cell.reciprocal(unit_cell.radians(cell))
    axis = rng.normal(size=3)
    turned = rotation.from_vector(0.1 * axis / np.linalg.norm(axis)) @ A
    assert symmetry.misorientation(turned, A, name) == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize(
    ("cell", "name", "settings"),
    [
        ((67.2, 59.8, 47.2, 90, 110.3, 90), "C 1 2 1", 1),
        ((78, 78, 38, 90, 90, 90), "P 41 21 2", 1),
        ((78, 78, 38, 90, 90, 90), "P 41", 2),
        ((92, 92, 130, 90, 90, 120), "P 31", 4),
        ((92, 92, 130, 90, 90, 120), "P 31 2 1", 2),
        ((90, 90, 140, 90, 90, 120), "R 3:H", 2),
        ((90, 90, 90, 90, 90, 90), "I 2 3", 2),
        ((50, 60, 50, 90, 105, 90), "P 1 21 1", 2),
        ((50, 60, 51, 90, 105, 90), "P 1 21 1", 1),
    ],
)
def test_settings_positions_cannot_tell_apart(cell, name, settings):
    """Index of the Laue group in the lattice's own (International Tables C, 1.3: merohedry); a = c
    of a monoclinic.
    """
    found = symmetry.ambiguities(unit_cell.radians(cell), name)
    assert len(found) == settings - 1
    B = unit_cell.reciprocal(unit_cell.radians(cell))
    hkl = np.random.default_rng(0).integers(-9, 10, (20, 3))
    for law in found:
        turned = np.array([gemmi.Op(law).apply_to_hkl(h) for h in hkl.tolist()])
        np.testing.assert_allclose(
            unit_cell.spacing(B, turned), unit_cell.spacing(B, hkl), rtol=1e-6
        )
        assert (symmetry.to_asu(turned, name)[0] != symmetry.to_asu(hkl, name)[0]).any()
