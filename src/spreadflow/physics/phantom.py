"""A seeded pseudo-protein for any cell and space group, so that nothing need be downloaded.

The asymmetric unit is the Dirichlet domain of a point in general position: all that is nearer to it
than to its symmetry mates. The molecule is the half of it furthest from the walls; the rest is
solvent. Two [2Fe-2S] clusters with four cysteine sulphurs each come first (one where there is no
room for two), then C, N, O and S at random, at the density of protein and no two closer than
`CLOSEST` (random sequential addition). B rises towards the surface.
"""

import numpy as np
import scipy

from spreadflow.physics import rotation, symmetry, unit_cell
from spreadflow.physics.structure_factors import Atoms, isotropic

PROTEIN_FRACTION = 0.5
"""Fraction of the volume that is protein; the rest is solvent."""

VOLUME_PER_ATOM = 17.1
"""Volume of a non-hydrogen atom of protein, Å³ (1.35 g/cm³)."""

CLOSEST = 1.9
"""Distance between two atoms, Å, at least."""

CLOSEST_TO_CLUSTER = 2.6
"""Distance between an atom and one of a cluster, Å, at least."""

ELEMENTS = {"C": 0.64, "N": 0.17, "O": 0.185, "S": 0.005}
"""Fractions of the elements among the atoms of protein."""

B_CENTRE = 12.0
"""B of atoms at the centre of the molecule, Å²."""

B_SURFACE = 34.0
"""B of atoms at its surface, Å²."""

CLUSTER_APART = 10.0
"""Distance between two clusters, Å, at least."""

CLUSTER_RADIUS = 4.0
"""Distance from a wall to the centre of a second cluster, Å, at least."""

CLUSTER_NAMES = np.array(["FE1", "FE2", "S1", "S2", "SG1", "SG2", "SG3", "SG4"])
"""Names of the atoms of a cluster, in the order of `_cluster`."""

CLUSTER_RESIDUE = "201"
"""Number of the residue of a cluster; each is in its own chain, from A on."""

PROTEIN_CHAIN = "P"
"""Chain of all atoms of protein, which are one residue."""

CLUSTER_ELEMENTS = np.array(["Fe", "Fe", "S", "S", "S", "S", "S", "S"])
"""Elements of the atoms of a cluster, in the order of `_cluster`."""


def build(cell: np.ndarray, space_group: str, seed: int) -> Atoms:
    """Return the phantom in a cell (6,) Å, rad.

    Sites are called FE1 and FE2; each cluster, in chains A and B, has one of each, 2.7 Å apart.
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
    metal = np.concatenate(clusters)
    n_atoms = int(PROTEIN_FRACTION * mates.volume / VOLUME_PER_ATOM)
    places = _fill(rng, mates, wall, metal, max(n_atoms - len(metal), 0))
    protein = _draw_elements(rng, len(places))

    xyz = np.concatenate([metal, places])
    distance = np.linalg.norm(xyz - xyz.mean(axis=0), axis=1)
    b = B_CENTRE + (B_SURFACE - B_CENTRE) * (distance / distance.max()) ** 2
    names = np.concatenate([np.tile(CLUSTER_NAMES, len(clusters)), protein])
    elements = np.concatenate([np.tile(CLUSTER_ELEMENTS, len(clusters)), protein])
    letters = np.array(["A", "B"])[: len(clusters)]
    is_protein = np.arange(len(names)) >= len(metal)
    return Atoms(
        names=names,
        elements=elements,
        chains=np.append(
            np.repeat(letters, len(CLUSTER_NAMES)), np.full(len(protein), PROTEIN_CHAIN)
        ),
        residues=np.where(is_protein, "1", CLUSTER_RESIDUE),
        residue_names=np.where(is_protein, "UNK", "FES"),
        altlocs=np.full(len(names), ""),
        sites=np.where(elements == "Fe", names, ""),
        xyz=xyz @ np.linalg.inv(basis).T,
        occupancy=np.ones(len(xyz)),
        beta=isotropic(b, cell),
    )


def _cluster(rng: np.random.Generator) -> np.ndarray:
    """Return the atoms (8, 3), Å, of a cluster turned at random: a [2Fe-2S] rhomb (Fe-Fe 2.7, Fe-S
    2.2) and four cysteine S at 2.3 from the irons.
    """
    iron = 1.35
    sulphur = np.sqrt(2.2**2 - 1.35**2)
    outward = 2.3 * np.cos(np.deg2rad(54.0))
    sideward = 2.3 * np.sin(np.deg2rad(54.0))
    rhomb = [[iron, 0, 0], [-iron, 0, 0], [0, sulphur, 0], [0, -sulphur, 0]]
    cysteines = []
    for end in (1, -1):
        for side in (1, -1):
            cysteines.append([end * (iron + outward), 0, side * sideward])
    return np.array(rhomb + cysteines) @ rotation.random(rng).T


def _cluster_centres(points: np.ndarray, depth: np.ndarray) -> list[np.ndarray]:
    """Return the deepest point, and the deepest that is far enough from it and from the walls, if
    there is one.
    """
    first = points[depth.argmax()]
    distance = np.linalg.norm(points - first, axis=1)
    is_far = (distance > CLUSTER_APART) & (depth > CLUSTER_RADIUS)
    if not is_far.any():
        return [first]
    return [first, points[is_far][depth[is_far].argmax()]]


def _draw_elements(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return the elements (n,) of atoms of protein, drawn at random."""
    names = np.array(list(ELEMENTS))
    fractions = np.array(list(ELEMENTS.values()))
    return rng.choice(names, size=n, p=fractions)


def _general_position(rng: np.random.Generator, basis: np.ndarray, space_group: str) -> np.ndarray:
    """Return, of some random points, the one furthest from its symmetry mates, (3,) fractional."""

    def distance_to_mates(x: np.ndarray) -> float:
        away = (_orbit(x, space_group) - x) @ basis.T
        return np.sort(np.linalg.norm(away, axis=1))[1]

    return max(rng.random((64, 3)), key=distance_to_mates)


def _orbit(x: np.ndarray, space_group: str) -> np.ndarray:
    """Return the symmetry mates (n, 3) of x (3,) in the cells around it, x itself among them;
    fractional.
    """
    ops = symmetry.group(space_group).operations()
    images = [op.apply_to_xyz(x.tolist()) for op in ops]
    mates = np.mod(np.array(images), 1.0)
    offsets = np.arange(-2, 3)
    grid = np.meshgrid(offsets, offsets, offsets, indexing="ij")
    cells = np.stack(grid, axis=-1).reshape(-1, 3)
    return (mates[:, None] + cells).reshape(-1, 3)


class _Mates:
    """The Dirichlet domain of a point under a space group: the room between its symmetry mates.

    centre: (3,) fractional; basis: (3, 3) columns a, b, c, Å.
    """

    def __init__(self, centre: np.ndarray, basis: np.ndarray, space_group: str):
        orbit = _orbit(centre, space_group) @ basis.T
        away = orbit - basis @ centre
        distance = np.linalg.norm(away, axis=1)
        others = np.argsort(distance)[1:200]
        n_operations = len(symmetry.group(space_group).operations())
        self.centre = basis @ centre
        self._half = 0.5 * distance[others]
        self._normal = away[others] / distance[others, None]
        self.volume = float(np.linalg.det(basis)) / n_operations
        self._reach = self._extent()

    def _extent(self) -> float:
        """Return the radius of a ball about the centre that holds the domain, Å."""
        axes = np.random.default_rng(0).standard_normal((4000, 3))
        axes = axes / np.linalg.norm(axes, axis=1, keepdims=True)
        along = axes @ self._normal.T
        to_wall = np.where(along > 1e-6, self._half / np.maximum(along, 1e-6), np.inf)
        return 1.1 * float(to_wall.min(axis=1).max())

    def depth(self, points: np.ndarray) -> np.ndarray:
        """Return the distance (n,) of points from the nearest wall, Å; negative outside."""
        to_walls = self._half - (points - self.centre) @ self._normal.T
        return to_walls.min(axis=1)

    def sample(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return points of the domain among n of the ball's cube, and their depth."""
        points = self.centre + self._reach * (2.0 * rng.random((n, 3)) - 1.0)
        depth = self.depth(points)
        return points[depth > 0], depth[depth > 0]


def _fill(
    rng: np.random.Generator, mates: _Mates, wall: float, metal: np.ndarray, n: int
) -> np.ndarray:
    """Return the places (n, 3), Å, of the atoms of protein, or of as many as find room: random
    sequential addition deeper than `wall`.
    """
    around = scipy.spatial.cKDTree(metal)
    placed = np.empty((0, 3))
    for _ in range(200):
        points, depth = mates.sample(rng, 40000)
        to_cluster, _ = around.query(points)
        points = points[(depth > wall) & (to_cluster > CLOSEST_TO_CLUSTER)]
        if len(placed):
            to_placed, _ = scipy.spatial.cKDTree(placed).query(points)
            points = points[to_placed > CLOSEST]
        pairs = scipy.spatial.cKDTree(points).query_pairs(CLOSEST, output_type="ndarray")
        apart = points[_earlier(len(points), pairs)]
        placed = np.concatenate([placed, apart])[:n]
        if len(placed) >= n:
            break
    return placed


def _earlier(n: int, pairs: np.ndarray) -> np.ndarray:
    """Return which points (n,) bool no earlier one is close to (a subset of what sequential
    addition would keep). pairs: (m, 2) rows of points that are close to each other.
    """
    is_apart = np.ones(n, dtype=bool)
    is_apart[pairs.max(axis=1)] = False
    return is_apart
