"""Symmetry and cell against spots of lattices that have them, or have not."""

import numpy as np
import pytest

from spreadflow.models import Detector
from spreadflow.physics import geometry, rotation, symmetry, unit_cell
from spreadflow.products import Reindex
from spreadflow.recipes import cell_checks
from spreadflow.units import HC_EV_ANGSTROM, wavelength

DETECTOR = Detector(
    origin_mm=np.array([[-170.0, 170.0, -141.7]]),
    fast=np.array([[1.0, 0.0, 0.0]]),
    slow=np.array([[0.0, -1.0, 0.0]]),
    pixel_mm=np.float64(0.177),
    shape=(1920, 1920),
)
"""One panel, normal to the beam."""

ENERGY_EV = 7120.0
"""Of all shots."""

TETRAGONAL = [92.0, 92.0, 41.0, 90.0, 90.0, 90.0]
"""A cell, Å and degrees."""

MONOCLINIC = [60.0, 70.0, 80.0, 90.0, 110.0, 90.0]
"""A cell, Å and degrees."""


def run_of(true, refined, space_group, n=25, noise_px=0.2, change=None):
    """Return the product of a run of n stills with a lattice each.

    true: cell where spots lie; refined: that which the lattices have, both Å and degrees, indexed
    in any of the ways that the space group holds for the same; change: (3, 3) of true indices to
    those of the refined cell.
    """
    rng = np.random.default_rng(3)
    B = unit_cell.reciprocal(unit_cell.radians(true))
    B_refined = unit_cell.reciprocal(unit_cell.radians(refined))
    change = np.eye(3) if change is None else change
    nodes = unit_cell.all_indices(B, 2.3)
    operations = symmetry.point_group(space_group)
    stills = []
    for _ in range(n):
        U = rotation.random(rng)
        q = nodes @ (U @ B).T
        excess = np.linalg.norm(q + geometry.S0 / wavelength(ENERGY_EV), axis=1)
        is_lit = np.abs(excess * wavelength(ENERGY_EV) - 1.0) < 2e-3
        s1 = q[is_lit] * wavelength(ENERGY_EV) + geometry.S0
        panel, fast, slow = geometry.intersect(DETECTOR, s1)
        rows = rng.permutation(np.flatnonzero(panel >= 0))[:60]

        operation = operations[rng.integers(len(operations))]
        hkl = nodes[is_lit][rows] @ change.T @ operation
        on_new_axes = U @ B @ np.linalg.inv(change) @ np.linalg.inv(operation).T
        A = rotation.nearest(on_new_axes @ np.linalg.inv(B_refined)) @ B_refined
        is_node = (hkl == np.rint(hkl)).all(axis=1)
        spots = Reindex.spots(
            shot=np.zeros(len(rows), dtype=int),
            lattice=np.where(is_node, 0, -1),
            hkl=np.where(is_node[:, None], hkl, 0),
            panel=panel[rows],
            fast=fast[rows] + noise_px * rng.standard_normal(len(rows)),
            slow=slow[rows] + noise_px * rng.standard_normal(len(rows)),
            intensity=np.full(len(rows), 100.0),
            sigma=np.full(len(rows), 10.0),
            used=is_node,
        )
        shot = Reindex.shots(mean_energy_ev=[ENERGY_EV], n_lattices=[1])
        lattice = Reindex.lattices(shot=np.zeros(1, dtype=int), A=[A])
        stills.append(Reindex(shots=shot, lattices=lattice, spots=spots))
    return Reindex.joined(stills)


def lattices_of(product):
    n = len(product.lattices)
    setting = np.tile(np.eye(3, dtype=int), (n, 1, 1))
    return cell_checks.spots_of(product, np.arange(n), setting, DETECTOR)


def strain_of(true, refined, space_group):
    lattices = lattices_of(run_of(true, refined, space_group))
    cells = np.array([unit_cell.cell_of(lattice.A) for lattice in lattices])
    return cell_checks.forbidden_strain(lattices, cells, space_group)


@pytest.mark.stage
@pytest.mark.parametrize(
    ("true", "refined", "space_group", "size"),
    [
        ([92.2, 91.8, 41.0, 90.0, 90.0, 90.0], TETRAGONAL, "P 41 21 2", 0.2 / 92.0),
        ([92.0, 92.0, 41.0, 90.0, 90.0, 90.2], TETRAGONAL, "P 41 21 2", np.deg2rad(0.2) / 2),
        ([60.0, 70.0, 80.0, 90.2, 110.0, 90.0], MONOCLINIC, "P 1 21 1", None),
        ([70.0, 70.0, 70.4, 90.0, 90.0, 90.0], [70.13, 70.13, 70.13, 90, 90, 90], "P 2 3", 0.0038),
    ],
    ids=["a and b", "gamma", "alpha", "cubic"],
)
def test_a_symmetry_that_spots_contradict_is_told(true, refined, space_group, size):
    """Lattices were refined with the symmetry, and indexed in any of its equivalent ways."""
    strain = strain_of(true, refined, space_group)
    assert strain.contradicts
    if size is not None:
        assert strain.size == pytest.approx(size, abs=5e-5)

    cell = unit_cell.degrees(strain.cell(unit_cell.radians(refined)))
    lengths = np.sort(cell[:3])
    obliquities = np.sort(np.abs(cell[3:] - 90.0))
    np.testing.assert_allclose(lengths, np.sort(true[:3]), atol=0.02)
    np.testing.assert_allclose(obliquities, np.sort(np.abs(np.array(true[3:]) - 90)), atol=0.02)
    (warning,) = cell_checks.strain_warnings(strain, unit_cell.radians(refined), space_group)
    assert space_group in warning.what


@pytest.mark.stage
@pytest.mark.parametrize(
    ("cell", "space_group"), [(TETRAGONAL, "P 41 21 2"), (MONOCLINIC, "P 1 21 1")]
)
def test_a_symmetry_that_holds_is_not_told(cell, space_group):
    strain = strain_of(cell, cell, space_group)
    assert not strain.contradicts
    assert strain.size < 5 * strain.sigma
    assert cell_checks.strain_warnings(strain, unit_cell.radians(cell), space_group) == []


def test_a_triclinic_cell_has_no_symmetry_to_contradict():
    cell = [50.0, 60.0, 70.0, 85.0, 95.0, 100.0]
    assert strain_of(cell, cell, "P 1") is None


def test_a_doubled_axis_is_told():
    larger = [92.0, 92.0, 82.0, 90.0, 90.0, 90.0]
    product = run_of(TETRAGONAL, larger, "P 4", change=np.diag([1, 1, 2]))
    (warning,) = cell_checks.translation_warnings(lattices_of(product), "P 4")
    assert "1/2 c" in warning.what
    assert warning.value == 0.0


def test_a_halved_axis_is_told():
    smaller = [92.0, 92.0, 20.5, 90.0, 90.0, 90.0]
    product = run_of(TETRAGONAL, smaller, "P 4", change=np.diag([1, 1, 0.5]))
    (warning,) = cell_checks.translation_warnings(lattices_of(product), "P 4")
    assert "h, k, l + 1/2" in warning.what
    assert warning.value > 0.9


def test_the_right_cell_is_not_told():
    product = run_of(TETRAGONAL, TETRAGONAL, "P 4")
    assert cell_checks.translation_warnings(lattices_of(product), "P 4") == []


def test_lattices_are_asked_on_the_axes_they_share():
    """Of two lattices the second is brought to the axes of the first: a, b and c all turned
    about c.
    """
    product = run_of(MONOCLINIC, MONOCLINIC, "P 1", n=2)
    M = np.diag([-1, -1, 1])
    first, second = cell_checks.spots_of(product, np.arange(2), np.array([np.eye(3), M]), DETECTOR)
    is_second = product.spots.lattice == 1

    np.testing.assert_allclose(second.hkl, product.spots.hkl[is_second] @ M.T)
    for lattice in (first, second):
        q = (lattice.s1 - geometry.S0) * ENERGY_EV / HC_EV_ANGSTROM
        np.testing.assert_allclose(lattice.hkl @ lattice.A.T, q, atol=2e-3)
