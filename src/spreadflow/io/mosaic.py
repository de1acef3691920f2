"""Sets of mosaic domains from files: those that the stage `mosaic` learned, and those that somebody
supplies.
"""

from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np

from spreadflow.config import Stage1Section
from spreadflow.errors import ConfigError, FileError
from spreadflow.io import store
from spreadflow.models import Mosaic, MosaicOfLattice
from spreadflow.physics import rotation
from spreadflow.physics.mosaic import continuous, domains
from spreadflow.units import DEG

LARGEST_DEG = 5.0
"""A set of mosaic domains reaches no farther from its mean than this: more is another crystal, or
another unit.
"""

LARGEST_DEFECT = 1e-4
"""Largest element of R·Rᵀ − 1 of a matrix R that is taken for a rotation."""


def mosaic_of_lattices(section: Stage1Section, learned: Path | None = None) -> MosaicOfLattice:
    """Return the function that gives each lattice its mosaicity, as the configuration of stage 1
    wants it.

    learned: product of `mosaic`, where `stage1.mosaicity` is `learned`. Raises ConfigError,
    FileError.
    """
    if section.mosaicity == "learned":
        if learned is None:
            expected = "the product of `mosaic` where stage1.mosaicity is 'learned'"
            todo = "Run the stage `mosaic`, or choose another mosaicity."
            raise ConfigError("--mosaic", expected, None, todo)
        return read_learned(learned)
    if section.mosaicity == "domains":
        assert section.domains is not None, "checked with the configuration"
        one = domains(read_rotations(section.domains))
    else:
        one = continuous()
    return lambda shot_id, k: one


def read_learned(path: Path) -> MosaicOfLattice:
    """Return the mosaicity of each lattice as the stage `mosaic` learned it, or the continuous
    distribution.

    Raises FileError, when it is asked for a lattice that the product does not know.
    """
    columns = store.read(path, "mosaic", ["lattices/", "sets/eta_rad", "components/"])
    smooth = continuous()
    n_sets = len(columns["sets/eta_rad"])
    edges = np.searchsorted(columns["components/set"], np.arange(n_sets + 1))

    @lru_cache(maxsize=1)  # lattices that follow each other often share a set
    def learned(number: int) -> Mosaic:
        rows = slice(edges[number], edges[number + 1])
        return Mosaic(
            rotations=rotation.from_vector(columns["components/rotation_rad"][rows]),
            width=columns["components/width"][rows],
            share=columns["components/share"][rows],
            eta_rad=columns["sets/eta_rad"][number],
        )

    identities = zip(
        columns["lattices/shot_id"].tolist(), columns["lattices/k"].tolist(), strict=True
    )
    set_of = dict(zip(identities, columns["lattices/set"].tolist(), strict=True))

    def mosaic_of(shot_id: int, k: int) -> Mosaic:
        if (shot_id, k) not in set_of:
            expected = f"lattice {k} of shot {shot_id:016x}"
            todo = "Run `mosaic` on the same accepted lattices."
            raise FileError(path, expected, f"{len(set_of)} others", todo)
        number = set_of[shot_id, k]
        return smooth if number < 0 else learned(number)

    return mosaic_of


def read_rotations(path: Path) -> np.ndarray:
    """Return rotations of mosaic domains in the lab frame, counted from their mean, (domain, 3, 3).

    path: HDF5 file with a dataset `rotations`. Raises FileError for anything but rotations near to
    each other.
    """
    todo = (
        "Give an HDF5 dataset `rotations`, (domain, 3, 3): matrices in the lab frame, on the "
        "left of A."
    )
    try:
        with h5py.File(path, "r") as file:
            matrices = np.asarray(file["rotations"][()], dtype=np.float64)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise FileError(path, "an HDF5 file with a dataset `rotations`", error, todo) from None
    if matrices.ndim != 3 or matrices.shape[1:] != (3, 3) or not len(matrices):
        raise FileError(path, "rotations of shape (domain, 3, 3)", matrices.shape, todo)
    defect = np.inf
    if np.isfinite(matrices).all():
        defect = np.abs(matrices @ np.swapaxes(matrices, 1, 2) - np.eye(3)).max()
    if defect > LARGEST_DEFECT or np.linalg.det(matrices).min() < 0:
        found = f"a matrix whose R·Rᵀ differs from 1 by {defect:.2g}, or a mirror"
        raise FileError(path, "rotation matrices", found, todo)
    rotations = rotation.nearest(matrices)
    rotations = rotations @ rotation.mean(rotations).T
    farthest = rotation.angle(rotations).max() / DEG
    if farthest > LARGEST_DEG:
        expected = f"domains within {LARGEST_DEG:g}° of their mean"
        raise FileError(path, expected, f"one at {farthest:.3g}°", todo)
    return rotations
