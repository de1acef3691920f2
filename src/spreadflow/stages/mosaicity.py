"""The mosaic spread that stage 1's model of a lattice has, as the configuration wants it."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from spreadflow.config import Stage1Section
from spreadflow.errors import ConfigError, FileError
from spreadflow.models import Mosaic
from spreadflow.physics import mosaic, rotation
from spreadflow.units import DEG

LARGEST_DEG = 5.0
"""a set of mosaic domains does not reach farther from its mean"""

OfLattice = Callable[[int, int], Mosaic]
"""(shot_id, k) → the mosaic spread of that lattice"""


def of_lattices(section: Stage1Section) -> OfLattice:
    """The function that tells each lattice's. Raises ConfigError, FileError."""
    if section.mosaicity == "continuous":
        spread = mosaic.continuous()
    elif section.mosaicity == "domains":
        assert section.domains is not None, "checked with the configuration"
        spread = mosaic.domains(read_rotations(section.domains))
    else:
        todo = "A distribution learned from the pixels comes later."
        raise ConfigError("stage1.mosaicity", "'continuous' or 'domains'", section.mosaicity, todo)
    return lambda shot_id, k: spread


def read_rotations(path: Path) -> np.ndarray:
    """(domain, 3, 3) rotations in the lab frame from the dataset `rotations`, counted from their mean."""
    todo = "Give an HDF5 dataset `rotations`, (domain, 3, 3): matrices in the lab frame, on the left of A."
    try:
        with h5py.File(path, "r") as f:
            given = np.asarray(f["rotations"][()], dtype=np.float64)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise FileError(path, "an HDF5 file with a dataset `rotations`", error, todo) from None
    if given.ndim != 3 or given.shape[1:] != (3, 3) or not len(given):
        raise FileError(path, "rotations of shape (domain, 3, 3)", given.shape, todo)
    off = np.abs(given @ np.swapaxes(given, 1, 2) - np.eye(3)).max() if np.isfinite(given).all() else np.inf
    if off > 1e-4 or np.linalg.det(given).min() < 0:
        raise FileError(
            path, "rotation matrices", f"a matrix whose R·Rᵀ differs from 1 by {off:.2g}, or a mirror", todo
        )
    turned = rotation.nearest(given)
    turned = turned @ rotation.mean(turned).T
    if (far := rotation.angle(turned).max() / DEG) > LARGEST_DEG:
        raise FileError(path, f"domains within {LARGEST_DEG:g}° of their mean", f"one at {far:.3g}°", todo)
    return turned
