"""What the spots of the accepted lattices say against the cell and the symmetry that they were
indexed with.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.merging import metric_symmetry, translations
from spreadflow.analysis.merging.cells import NAMES
from spreadflow.analysis.merging.metric_symmetry import CommonStrain
from spreadflow.errors import StageWarning
from spreadflow.models import Detector
from spreadflow.physics import geometry, symmetry
from spreadflow.products import Children, Reindex
from spreadflow.products.index import Spots
from spreadflow.units import HC_EV_ANGSTROM, MAD_TO_SIGMA

COLUMNS = (
    Reindex.shots.mean_energy_ev,
    Reindex.shots.n_lattices,
    Reindex.lattices.shot,
    Reindex.lattices.A,
    Reindex.spots.shot,
    Reindex.spots.panel,
    Reindex.spots.fast,
    Reindex.spots.slow,
    Reindex.spots.intensity,
    Reindex.spots.sigma,
    Reindex.spots.lattice,
    Reindex.spots.hkl,
    Reindex.spots.used,
)
"""Columns of a product of `reindex` that are looked at."""

MOST_LATTICES = 200
"""Lattices, at most, whose spots are looked at."""

LATTICES_TOGETHER = 8
"""As many of them follow each other, so that few parts are read."""

I_OVER_SIGMA = 5.0
"""Spots without a lattice at least this strong count."""

LARGEST_FREE = 0.1
"""Share of the spots that no lattice has from which it is asked where they lie."""

MAX_LENGTH_CHANGE = 0.01
"""Relative difference of a length of the mean cell from the target's beyond which it is told."""

MAX_ANGLE_CHANGE_DEG = 1.0
"""Difference of an angle of the mean cell from the target's beyond which it is told."""

LEAST_SCATTER = 1e-4
"""Smallest scatter of the lengths of cells that is assumed, relative."""


class LatticeSpots(NamedTuple):
    """A lattice and its spots, on the axes that all lattices share."""

    A: np.ndarray
    """(3, 3) Å⁻¹"""
    hkl: np.ndarray
    """(n, 3) of its spots"""
    s1: np.ndarray
    """(n, 3) unit vectors to them"""
    others: np.ndarray
    """(m, 3) Miller indices, no whole numbers, of the strong spots of its shot that no lattice has;
    none where the shot has several lattices
    """


def spots_of(
    part: Reindex, rows: np.ndarray, setting: np.ndarray, detector: Detector
) -> list[LatticeSpots]:
    """Return some lattices of a run with their spots.

    part: `COLUMNS` of shots of the run; rows: of the lattices; setting: (row, 3, 3) M, Miller
    indices on the shared axes are M · those of the run.
    """
    spots = part.spots
    indexed = Children(np.where(spots.used, spots.lattice, -1))
    is_strong = spots.intensity >= I_OVER_SIGMA * spots.sigma
    is_free = (spots.lattice < 0) & is_strong
    free = Children(np.where(is_free, spots.shot, -1))

    def directions(spots: Spots) -> np.ndarray:
        return geometry.direction(detector, spots.panel, spots.fast, spots.slow)

    lattices = []
    for row, M in zip(rows, setting, strict=True):
        shot = part.lattices.shot[row]
        A = part.lattices.A[row] @ np.linalg.inv(M)
        own = spots[indexed[row]]
        is_alone = part.shots.n_lattices[shot] == 1
        others = spots[free[shot] if is_alone else []]
        wavenumber = part.shots.mean_energy_ev[shot] / HC_EV_ANGSTROM
        q = (directions(others) - geometry.S0) * wavenumber
        lattices.append(
            LatticeSpots(
                A=A,
                hkl=own.hkl @ M.T,
                s1=directions(own),
                others=q @ np.linalg.inv(A).T,
            )
        )
    return lattices


def forbidden_strain(
    lattices: Sequence[LatticeSpots], cells: np.ndarray, space_group: str
) -> CommonStrain | None:
    """Return the strain that the space group forbids and lattices have in common; None where it
    forbids none, or spots are too few.

    cells: (n, 6) of the accepted lattices, Å and rad.
    """
    cell = symmetry.constrain_cell(np.median(cells, axis=0), space_group)
    bases = metric_symmetry.strains(cell, space_group)
    if not len(bases.forbidden):
        return None
    deviation = np.median(np.abs(cells - np.median(cells, axis=0)), axis=0)
    scatter = max(float((MAD_TO_SIGMA * deviation[:3] / cell[:3]).max()), LEAST_SCATTER)
    found = []
    for lattice in lattices:
        strain = metric_symmetry.strains_of_lattice(
            lattice.A, lattice.hkl, lattice.s1, cell=cell, bases=bases, scatter=scatter
        )
        if strain is not None:
            found.append(strain)
    if not found:
        return None
    values, covariances = map(np.array, zip(*found, strict=True))
    return metric_symmetry.common_strain(values, covariances, bases)


def strain_warnings(
    strain: CommonStrain | None, mean: np.ndarray, space_group: str
) -> list[StageWarning]:
    """Return what to know of the symmetry of the lattice. mean: (6,) of the cells, Å and rad."""
    if strain is None or not strain.contradicts:
        return []
    cell = symmetry.constrain_cell(mean, space_group)
    without = _words(strain.cell(cell))
    return [
        StageWarning(
            f"spots contradict the symmetry of the cell, {space_group}: without it the cell is",
            f"{without} (lengths change by {strain.size:.2%})",
            f"{_words(cell)}, within {metric_symmetry.LEAST_STRAIN:.2%}",
            "Index with this cell in a space group of lower symmetry, and compare the merged "
            "intensities.",
        )
    ]


def _words(cell: np.ndarray) -> str:
    """Return a cell (6,), Å and rad, in words."""
    lengths = " ".join(f"{value:.2f}" for value in cell[:3])
    angles = " ".join(f"{value:.2f}" for value in np.rad2deg(cell[3:]))
    return f"{lengths} Å {angles}°"


def translation_warnings(lattices: Sequence[LatticeSpots], space_group: str) -> list[StageWarning]:
    """Return what to know where the cell seems to be a multiple of the true one, or a fraction."""
    warnings = []
    nothing = [np.empty((0, 3))]
    hkl = np.concatenate([lattice.hkl for lattice in lattices] or nothing)
    others = np.concatenate([lattice.others for lattice in lattices] or nothing)
    smaller = translations.superfluous_nodes(hkl, space_group)
    if smaller:
        vectors = ", ".join(translation.of_axes() for translation in smaller)
        warnings.append(
            StageWarning(
                f"the lattice repeats after {vectors} already: share of the {len(hkl)} spots at "
                "nodes that a smaller cell would not have",
                max(translation.share for translation in smaller),
                "about half or more",
                "Index with the smaller cell, unless weak spots between those that were found "
                "are seen in the images.",
            )
        )
    larger = translations.missing_nodes(others, space_group)
    n_spots = len(hkl) + len(others)
    if larger is not None and len(others) > LARGEST_FREE * n_spots:
        warnings.append(
            StageWarning(
                f"spots lie between the nodes of the cell, at {larger.of_indices()}: share of the "
                f"{len(others)} strong spots that no lattice has",
                larger.share,
                "a few hundredths",
                "Index with the larger cell that has these nodes.",
            )
        )
    return warnings


def target_warnings(mean: Sequence[float], target: Sequence[float], key: str) -> list[StageWarning]:
    """Return what to know where the mean cell is not the target, both six numbers, Å and degrees.
    key: of the target in the configuration.
    """
    warnings = []
    for name, value, expected in zip(NAMES, mean, target, strict=True):
        is_length = name in NAMES[:3]
        largest = MAX_LENGTH_CHANGE * expected if is_length else MAX_ANGLE_CHANGE_DEG
        unit = "Å" if is_length else "degrees"
        if abs(value - expected) > largest:
            warnings.append(
                StageWarning(
                    f"{name} of the mean cell is not that of {key}, {unit}",
                    value,
                    f"{expected:g} ± {largest:.3g}",
                    f"Set {key} to the mean cell if it is the crystal's; else look at the "
                    "distance of the detector.",
                )
            )
    return warnings
