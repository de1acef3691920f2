"""The phantom fills any crystal as protein does."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from spreadflow.physics import phantom, unit_cell
from spreadflow.physics.symmetry import group

CRYSTALS = [
    ([67.2, 59.8, 47.2, 90.0, 110.3, 90.0], "C 1 2 1", 2),
    ([80.0, 80.0, 90.0, 90.0, 90.0, 120.0], "R 3 2:H", 2),
    ([100.0, 100.0, 100.0, 90.0, 90.0, 90.0], "F 4 3 2", 1),
    ([20.0, 25.0, 30.0, 90.0, 90.0, 90.0], "P 21 21 21", 1),
    ([25.0, 26.0, 30.0, 80.0, 95.0, 100.0], "P 1", 1),
]


@pytest.mark.stage
@pytest.mark.parametrize(("cell", "name", "n_clusters"), CRYSTALS)
def test_density_clusters_and_contacts(cell, name, n_clusters):
    cell = unit_cell.radians(cell)
    atoms = phantom.build(cell, name, 1)
    basis = unit_cell.orthogonalization(cell)
    ops = list(group(name).operations())
    protein = 0.5 * unit_cell.volume(cell) / len(ops)
    assert len(atoms.names) * 17.1 == pytest.approx(protein, rel=0.03)
    iron = atoms.xyz[atoms.elements == "Fe"] @ basis.T
    assert len(iron) >= 2 * n_clusters
    assert set(atoms.names[atoms.elements == "Fe"]) == {"FE1", "FE2"}
    np.testing.assert_allclose(np.linalg.norm(iron[::2] - iron[1::2], axis=1), 2.7, atol=1e-6)

    images = [op.apply_to_xyz(x) for op in ops for x in atoms.xyz.tolist()]
    grid = np.meshgrid(*[np.arange(-1, 2)] * 3, indexing="ij")
    cells = np.stack(grid, axis=-1).reshape(-1, 3)
    in_all_cells = (np.mod(images, 1.0)[:, None] + cells).reshape(-1, 3) @ basis.T
    in_cell = np.mod(atoms.xyz, 1.0) @ basis.T
    distances, _ = cKDTree(in_all_cells).query(in_cell, k=2)
    nearest = distances[:, 1]
    assert np.quantile(nearest, 0.02) > 1.85 and nearest.min() > 1.0


@pytest.mark.stage
def test_the_seed_makes_the_phantom():
    cell = unit_cell.radians(CRYSTALS[3][0])
    same, again, other = (phantom.build(cell, "P 21 21 21", seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(same.xyz, again.xyz)
    assert not np.allclose(same.xyz[:5], other.xyz[:5])
