"""Expected Bragg photons of one lattice, summed over the (cloud, point, channels) that can hold
any, and their derivatives by its crystal.

The equations are those of `differentiable`, which JAX differentiates by everything else; here they
are compiled loops (`pair_loops`) over any number of pairs, in float64. What is returned is NumPy.
Rays are those of `pair_tables.rays_by_point`, (point, 4).
"""

import numpy as np

from spreadflow.models import Parameters
from spreadflow.physics import pair_loops
from spreadflow.physics.clouds import Clouds, cloud_changes
from spreadflow.physics.pair_loops import LoopTables
from spreadflow.physics.pair_tables import WINDOW, Pairs, averaged, compiled_channels


def sums(
    parameters: Parameters, rays: np.ndarray, pairs: Pairs
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return expected photons (point,), photons times E − middle (eV), and the middle."""
    tables = _tables(parameters, rays)
    total = np.zeros((len(rays), 2))
    pair_loops.add_photons(tables, pairs, total)
    photons, first_moment = np.ascontiguousarray(total.T)
    return photons, first_moment, tables.middle


def each(parameters: Parameters, rays: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Return the expected photons (pair,) of every pair by itself."""
    return pair_loops.photons_of_each(_tables(parameters, rays), pairs)


def by_channel(
    parameters: Parameters, rays: np.ndarray, pairs: Pairs, row: np.ndarray, n_rows: int
) -> np.ndarray:
    """Return photons of every channel per electron² of |F|², sums over the pairs of each row:
    (n_rows, channel) float32.

    row: (pair,).
    """
    n_channels = len(parameters.spectrum.photons)
    unit = parameters._replace(f_squared=np.ones((1, n_channels)))
    total = np.zeros((n_rows, n_channels + WINDOW), dtype=np.float32)
    pair_loops.add_channels(_tables(unit, rays), pairs, row, total)
    return total[:, :n_channels]


def by_crystal(
    parameters: Parameters,
    rays: np.ndarray,
    pairs: Pairs,
    directions: np.ndarray,
    row: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return photons (row,) and their derivatives (row, direction) along directions of the crystal.

    directions: (parameter, direction), in the order of `clouds.cloud_changes`. row: (point,) of the
    sums that each point adds to.
    """
    changes = np.asarray(cloud_changes(parameters.crystal, parameters.mosaic, parameters.hkl))
    of_photons = np.zeros((*changes.shape[:2], 1))
    of_photons[:, 0] = 1.0
    columns = np.concatenate([of_photons, changes @ directions], axis=2)
    total = np.zeros((int(row.max(initial=-1)) + 1, columns.shape[2]))
    pair_loops.add_derivatives(_tables(parameters, rays), columns, pairs, row, total)
    return total[:, 0], total[:, 1:]


def _tables(parameters: Parameters, rays: np.ndarray) -> LoopTables:
    """Return the tables that pairs of points and the clouds of a lattice are looked up in."""
    return tables_of_clouds(parameters, rays, averaged(parameters))


def tables_of_clouds(parameters: Parameters, rays: np.ndarray, clouds: Clouds) -> LoopTables:
    """Return the tables that pairs are looked up in; clouds: of `pair_tables.averaged`."""
    channels = compiled_channels(parameters)
    x = np.array(channels.x)
    strength = np.array(channels.strength).reshape(-1, len(x))
    cloud = pair_loops.rows_of_clouds(clouds)
    return LoopTables(
        ray=rays,
        cloud=cloud,
        x=x,
        strength=strength,
        middle=float(channels.middle),
        n_components=len(cloud) // len(strength),
    )
