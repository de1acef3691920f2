"""Pixels in tiles of `LANES`, as the loops over them have their values and sums."""

import numpy as np

from spreadflow.physics.lanes import LANES, aligned


def n_tiles(n_pixels: int) -> int:
    """Return the number of tiles that pixels fill."""
    return -(-n_pixels // LANES)


def empty_sums(n_pixels: int, n_delays: int) -> np.ndarray:
    """Return sums of nothing, as of `lag_loops.add_up`. n_delays: filled up to whole groups."""
    n_values = 3 * n_delays * LANES
    return aligned(n_tiles(n_pixels) * n_values).reshape(-1, n_values)


def by_pixel(sums: np.ndarray, delays: np.ndarray, n_pixels: int) -> np.ndarray:
    """Return sums (3, delay, pixel) of products, earlier and later values, from those by tile.
    delays: (delay,) int which of theirs.
    """
    by_lane = sums.reshape(len(sums), 3, -1, LANES)[:, :, delays]
    return by_lane.transpose(1, 2, 0, 3).reshape(3, len(delays), -1)[:, :, :n_pixels]
