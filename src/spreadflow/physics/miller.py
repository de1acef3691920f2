"""Miller indices."""

import numpy as np


def rows(table: np.ndarray, hkl: np.ndarray) -> np.ndarray:
    """Return the rows (n,) of Miller indices (n, 3) in a table (row, 3); −1 where it has none."""
    if not len(table):
        return np.full(len(hkl), -1)
    largest = max(np.abs(table).max(), np.abs(hkl).max(initial=0))
    size = 2 * int(largest) + 1

    def key(h: np.ndarray) -> np.ndarray:
        return h.astype(np.int64) @ np.array([size * size, size, 1])

    keys = key(table)
    wanted = key(hkl)
    order = np.argsort(keys)
    place = np.searchsorted(keys[order], wanted)
    row = order[np.minimum(place, len(order) - 1)]
    return np.where(keys[row] == wanted, row, -1)
