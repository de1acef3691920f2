"""A seeded pseudo-protein for any cell and space group, so that nothing need be downloaded.

The asymmetric unit is the Dirichlet domain of a point in general position: all that is nearer to it
than to its symmetry mates. The molecule is the half of it furthest from the walls; the rest is
solvent. Two [2Fe-2S] clusters with four cysteine sulphurs each come first (one where there is no
room for two), then C, N, O and S at random, at the density of protein and no two closer than
`CLOSEST` (random sequential addition). B rises towards the surface.
"""

import numpy as np
from scipy.spatial import cKDTree

from spreadflow.physics import rotation, symmetry, unit_cell
from spreadflow.physics.structure_factors import Atoms, isotropic

PROTEIN_FRACTION = 0.5
"""Of the volume."""

VOLUME_PER_ATOM = 17.1
"""Å³ per non-hydrogen atom of protein (1.35 g/cm³)."""

CLOSEST = 1.9
"""Å between two atoms."""

CLOSEST_TO_CLUSTER = 2.6
"""Å between an atom and one of a cluster."""

ELEMENTS = {"C": 0.64, "N": 0.17, "O": 0.185, "S": 0.005}
B_CENTRE = 12.0
"""B of atoms at the centre of the molecule, Å²."""

B_SURFACE = 34.0
"""B of atoms at its surface, Å²."""

CLUSTER_APART = 10.0
"""Å between two clusters, at least."""

CLUSTER_RADIUS = 4.0
"""Å from a wall to the centre of a second cluster, at least."""


def build(cell: np.ndarray, space_group: str, seed: int) -> Atoms:
    """Return the phantom in a cell (6,) Å, rad.

    Sites are called FE1 and FE2; each cluster has one of each, 2.7 Å apart.
    """
    rng = np.random.default_rng(seed)
    basis = unit_cell.orthogonalization(cell)
    mates = _Mates(_general_position(rng, basis, space_group), basis, space_group)
    points, depth = mates.sample(rng, 40000)
    wall = max(float(np.quantile(depth, 1.0 - PROTEIN_FRACTION)), 0.5 * CLOSEST)
    points = points[depth > wall]
    depth = depth[depth > wall]
    if len(points) == 0:
        raise ValueError(
            f"no room for atoms in a cell of {unit_cell.volume(cell):.0f} Å³ in '{space_group}'"
        )
    clusters = [_cluster(rng) + centre for centre in _cluster_centres(points, depth)]
    n_atoms = int(PROTEIN_FRACTION * mates.volume / VOLUME_PER_ATOM)
    metal = np.concatenate(clusters)
    places = _fill(rng, mates, wall, metal, max(n_atoms - len(metal), 0))
    xyz = np.concatenate([metal, places])
    elements = np.concatenate(
        [np.tile(CLUSTER_ELEMENTS, len(clusters)), _draw_elements(rng, len(places))]
    )
    names = np.concatenate([np.tile(CLUSTER_NAMES, len(clusters)), elements[len(metal) :]])
    away = np.linalg.norm(xyz - xyz.mean(axis=0), axis=1)
    b = B_CENTRE + (B_SURFACE - B_CENTRE) * (away / away.max()) ** 2
    return Atoms(
        names, elements, xyz @ np.linalg.inv(basis).T, np.ones(len(xyz)), isotropic(b, cell)
    )


CLUSTER_NAMES = np.array(["FE1", "FE2", "S1", "S2", "SG1", "SG2", "SG3", "SG4"])
CLUSTER_ELEMENTS = np.array(["Fe", "Fe", "S", "S", "S", "S", "S", "S"])


def _cluster(rng: np.random.Generator) -> np.ndarray:
    """Return (8, 3) Å: a [2Fe-2S] rhomb (Fe-Fe 2.7, Fe-S 2.2) and four cysteine S at 2.3 from the
    irons, turned at random.
    """
    iron = 1.35
    sulphur = np.sqrt(2.2**2 - 1.35**2)
    out = 2.3 * np.cos(np.deg2rad(54.0)), 2.3 * np.sin(np.deg2rad(54.0))
    flat = [[iron, 0, 0], [-iron, 0, 0], [0, sulphur, 0], [0, -sulphur, 0]]
    legs = [[sign * (iron + out[0]), 0, side * out[1]] for sign in (1, -1) for side in (1, -1)]
    return np.array(flat + legs) @ rotation.random(rng).T


def _cluster_centres(points: np.ndarray, depth: np.ndarray) -> list[np.ndarray]:
    """Return the deepest point, and the deepest that is far enough from it and from the walls, if
    there is one.
    """
    first = points[depth.argmax()]
    far = (np.linalg.norm(points - first, axis=1) > CLUSTER_APART) & (depth > CLUSTER_RADIUS)
    return [first] if not far.any() else [first, points[far][depth[far].argmax()]]


def _draw_elements(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.choice(np.array(list(ELEMENTS)), size=n, p=np.array(list(ELEMENTS.values())))


def _general_position(rng: np.random.Generator, basis: np.ndarray, space_group: str) -> np.ndarray:
    """Return (3,) fractional: of some random points the one furthest from its symmetry mates."""
    tries = rng.random((64, 3))
    return max(
        tries,
        key=lambda x: np.sort(np.linalg.norm((_orbit(x, space_group) - x) @ basis.T, axis=1))[1],
    )


def _orbit(x: np.ndarray, space_group: str) -> np.ndarray:
    """Return (n, 3) symmetry mates of x in the cells around it, x itself first found at distance
    0.
    """
    ops = symmetry.group(space_group).operations()
    mates = np.mod(np.array([op.apply_to_xyz(x.tolist()) for op in ops]), 1.0)
    cells = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return (mates[:, None] + cells).reshape(-1, 3)


class _Mates:
    """The Dirichlet domain of a point under a space group."""

    def __init__(self, centre: np.ndarray, basis: np.ndarray, space_group: str):
        orbit = _orbit(centre, space_group) @ basis.T
        away = orbit - basis @ centre
        distance = np.linalg.norm(away, axis=1)
        others = np.argsort(distance)[1:200]
        self.centre, self._half = basis @ centre, 0.5 * distance[others]
        self._normal = away[others] / distance[others, None]
        self.volume = float(np.linalg.det(basis)) / len(symmetry.group(space_group).operations())
        self._reach = self._extent()

    def _extent(self) -> float:
        """Return radius of a ball about the centre that holds the domain."""
        axes = np.random.default_rng(0).standard_normal((4000, 3))
        along = (axes / np.linalg.norm(axes, axis=1, keepdims=True)) @ self._normal.T
        return 1.1 * float(
            np.min(
                np.where(along > 1e-6, self._half / np.maximum(along, 1e-6), np.inf), axis=1
            ).max()
        )

    def depth(self, points: np.ndarray) -> np.ndarray:
        """Return (n,) distance of points from the nearest wall, Å; negative outside."""
        return (self._half - (points - self.centre) @ self._normal.T).min(axis=1)

    def sample(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return points of the domain among n of the ball's cube, and their depth."""
        points = self.centre + self._reach * (2.0 * rng.random((n, 3)) - 1.0)
        depth = self.depth(points)
        return points[depth > 0], depth[depth > 0]


def _fill(
    rng: np.random.Generator, mates: _Mates, wall: float, metal: np.ndarray, n: int
) -> np.ndarray:
    """Return (n, 3) Å, or as many as find room: random sequential addition deeper than `wall`."""
    around = cKDTree(metal)
    placed = np.empty((0, 3))
    for _ in range(200):
        points, depth = mates.sample(rng, 40000)
        points = points[(depth > wall) & (around.query(points)[0] > CLOSEST_TO_CLUSTER)]
        if len(placed):
            points = points[cKDTree(placed).query(points)[0] > CLOSEST]
        pairs = cKDTree(points).query_pairs(CLOSEST, output_type="ndarray")
        placed = np.concatenate([placed, points[_earlier(len(points), pairs)]])[:n]
        if len(placed) >= n:
            break
    return placed


def _earlier(n: int, pairs: np.ndarray) -> np.ndarray:
    """Return (n,) bool: points that no earlier one is close to (a subset of what sequential
    addition would keep).
    """
    keep = np.ones(n, dtype=bool)
    keep[pairs.max(axis=1)] = False
    return keep
