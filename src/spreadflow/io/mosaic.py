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
from spreadflow.products import Mosaic as Learned
from spreadflow.units import DEG

LARGEST_DEG = 5.0
"""A set of mosaic domains reaches no farther from its mean than this: more is another crystal, or
another unit.
"""

LARGEST_DEFECT = 1e-4
"""Largest element of R·Rᵀ − 1 of a matrix R that is taken for a rotation."""

GIVE_ROTATIONS = (
    "Give an HDF5 dataset `rotations`, (domain, 3, 3): matrices in the lab frame, on the left of A."
)
"""What to do about a file without rotations."""


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
        shared = domains(read_rotations(section.domains))
    else:
        shared = continuous()
    return lambda shot_id, k: shared


def read_learned(path: Path) -> MosaicOfLattice:
    """Return the function that gives each lattice its mosaicity: what the stage `mosaic` learned
    from it, or the continuous distribution.

    The function raises FileError when it is asked for a lattice that the product does not know.
    """
    lattices = Learned.lattices
    names = [lattices.shot_id, lattices.k, lattices.set]
    learned = store.read(path, Learned, [*names, Learned.sets.eta_rad, Learned.components])
    smooth = continuous()
    n_sets = len(learned.sets)
    first_rows = np.searchsorted(learned.components.set, np.arange(n_sets + 1))

    @lru_cache(maxsize=1)  # lattices that follow each other often share a set
    def learned_set(number: int) -> Mosaic:
        components = learned.components[first_rows[number] : first_rows[number + 1]]
        return Mosaic(
            rotations=rotation.from_vector(components.rotation_rad),
            width=components.width,
            share=components.share,
            eta_rad=learned.sets.eta_rad[number],
        )

    shot_ids = learned.lattices.shot_id.tolist()
    identities = zip(shot_ids, learned.lattices.k.tolist(), strict=True)
    set_numbers = dict(zip(identities, learned.lattices.set.tolist(), strict=True))

    def mosaic(shot_id: int, k: int) -> Mosaic:
        if (shot_id, k) not in set_numbers:
            expected = f"lattice {k} of shot {shot_id:016x}"
            todo = "Run `mosaic` on the same accepted lattices."
            raise FileError(path, expected, f"{len(set_numbers)} others", todo)
        number = set_numbers[shot_id, k]
        return smooth if number < 0 else learned_set(number)

    return mosaic


def read_rotations(path: Path) -> np.ndarray:
    """Return rotations of mosaic domains in the lab frame, counted from their mean, (domain, 3, 3).

    path: HDF5 file with a dataset `rotations`. Raises FileError for anything but rotations near to
    each other.
    """
    matrices = _read_matrices(path)
    defect = np.inf
    if np.isfinite(matrices).all():
        defect = np.abs(matrices @ np.swapaxes(matrices, 1, 2) - np.eye(3)).max()
    if defect > LARGEST_DEFECT or np.linalg.det(matrices).min() < 0:
        found = f"a matrix whose R·Rᵀ differs from 1 by {defect:.2g}, or a mirror"
        raise FileError(path, "rotation matrices", found, GIVE_ROTATIONS)

    rotations = rotation.nearest(matrices)
    from_mean = rotations @ rotation.mean(rotations).T
    farthest_deg = rotation.angle(from_mean).max() / DEG
    if farthest_deg > LARGEST_DEG:
        expected = f"domains within {LARGEST_DEG:g}° of their mean"
        raise FileError(path, expected, f"one at {farthest_deg:.3g}°", GIVE_ROTATIONS)
    return from_mean


def _read_matrices(path: Path) -> np.ndarray:
    """Return the dataset `rotations` of a file, (domain, 3, 3). Raises FileError."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            matrices = np.asarray(file["rotations"][()], dtype=np.float64)
    except (OSError, KeyError, TypeError, ValueError) as error:
        expected = "an HDF5 file with a dataset `rotations`"
        raise FileError(path, expected, error, GIVE_ROTATIONS) from None
    if matrices.ndim != 3 or matrices.shape[1:] != (3, 3) or not len(matrices):
        expected = "rotations of shape (domain, 3, 3)"
        raise FileError(path, expected, matrices.shape, GIVE_ROTATIONS)
    return matrices
