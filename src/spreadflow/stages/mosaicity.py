"""The mosaic spread that the model of a lattice has, as the configuration of stage 1 wants it."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np

from spreadflow.config import Stage1Section
from spreadflow.errors import ConfigError, FileError
from spreadflow.io import store
from spreadflow.models import Mosaic
from spreadflow.physics import rotation
from spreadflow.physics.mosaic import continuous, domains
from spreadflow.units import DEG

LARGEST_DEG = 5.0
"""a set of mosaic domains does not reach farther from its mean"""

OfLattice = Callable[[int, int], Mosaic]
"""(shot_id, k) → the mosaic spread of that lattice"""


def of_lattices(section: Stage1Section, mosaic: Path | None = None) -> OfLattice:
    """The function that tells each lattice's. mosaic: what was learned, where it is. Raises ConfigError, FileError."""
    if section.mosaicity == "learned":
        if mosaic is None:
            expected = "the product of `mosaic` where stage1.mosaicity is 'learned'"
            raise ConfigError(
                "--mosaic", expected, None, "Run the stage `mosaic`, or choose another mosaicity."
            )
        return read_learned(mosaic)
    if section.mosaicity == "domains":
        assert section.domains is not None, "checked with the configuration"
        given = domains(read_rotations(section.domains))
        return lambda shot_id, k: given
    smooth = continuous()
    return lambda shot_id, k: smooth


def read_learned(path: Path) -> OfLattice:
    """What the stage `mosaic` found: sets of components with the η they are told in, or the continuous distribution."""
    t = store.read(path, "mosaic", ["lattices/", "sets/eta_rad", "components/"])
    smooth = continuous()
    n_sets = len(t["sets/eta_rad"])
    edges = np.searchsorted(t["components/set"], np.arange(n_sets + 1))

    @lru_cache(maxsize=1)  # lattices of a shared set have the same
    def learned(n: int) -> Mosaic:
        mine = slice(edges[n], edges[n + 1])
        turned = rotation.from_vector(t["components/rotation_rad"][mine])
        return Mosaic(
            turned, t["components/width"][mine], t["components/share"][mine], t["sets/eta_rad"][n]
        )

    ids = zip(t["lattices/shot_id"].tolist(), t["lattices/k"].tolist(), strict=True)
    sets = dict(zip(ids, t["lattices/set"].tolist(), strict=True))

    def of(shot_id: int, k: int) -> Mosaic:
        if (shot_id, k) not in sets:
            expected = f"lattice {k} of shot {shot_id:016x}"
            raise FileError(
                path, expected, f"{len(sets)} others", "Run `mosaic` on the same accepted lattices."
            )
        return smooth if (n := sets[shot_id, k]) < 0 else learned(n)

    return of


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
    off = (
        np.abs(given @ np.swapaxes(given, 1, 2) - np.eye(3)).max()
        if np.isfinite(given).all()
        else np.inf
    )
    if off > 1e-4 or np.linalg.det(given).min() < 0:
        raise FileError(
            path,
            "rotation matrices",
            f"a matrix whose R·Rᵀ differs from 1 by {off:.2g}, or a mirror",
            todo,
        )
    turned = rotation.nearest(given)
    turned = turned @ rotation.mean(turned).T
    if (far := rotation.angle(turned).max() / DEG) > LARGEST_DEG:
        raise FileError(
            path, f"domains within {LARGEST_DEG:g}° of their mean", f"one at {far:.3g}°", todo
        )
    return turned
