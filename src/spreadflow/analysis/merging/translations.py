"""Is the target cell a multiple or a fraction of the cell that the spots show?

Where the lattice repeats after half an axis already, no spot has an odd index along it. Where it
repeats only after twice an axis, spots that no lattice explains lie half way between its nodes.

Nodes are counted on primitive axes, where every triple of whole numbers is one. Each lattice whose
cell is n = 2 or 3 times smaller or larger goes with a vector v of numbers modulo n. Of a smaller
one v/n is a translation, and only nodes with h·v divisible by n carry spots; a larger one has nodes
at h + v/n.
"""

from fractions import Fraction
from itertools import product
from typing import NamedTuple

import numpy as np

from spreadflow.physics import symmetry

DIVISORS = (2, 3)
"""Ratios of the cells that are looked at."""

LEAST_SPOTS = 40
"""Spots from which something is said."""

LARGEST_SHARE = 0.05
"""Share of the spots at nodes that a smaller cell would not have, over that of these nodes, up to
which it is suspected: some lattices or spots are false.
"""

TOLERANCE = 0.12
"""Difference of each coordinate up to which a spot lies at a node."""

LEAST_SHARE = 0.3
"""Share of the spots without a lattice that lie at the nodes of a larger cell from which it is
suspected; by chance it is a few hundredths.
"""


class Translation(NamedTuple):
    """A translation of the lattice in direct or reciprocal space that the target does not have."""

    vector: tuple[Fraction, ...]
    """(3,) on conventional axes"""
    share: float
    """of the spots, at the nodes that tell"""
    n_spots: int

    def of_axes(self) -> str:
        """Return a vector in direct space in words, such as 1/2 a + 1/2 b."""
        terms = zip(self.vector, "abc", strict=True)
        return " + ".join(f"{value} {axis}" for value, axis in terms if value)

    def of_indices(self) -> str:
        """Return a vector in reciprocal space in words, such as h + 1/2, k, l."""
        terms = zip(self.vector, "hkl", strict=True)
        return ", ".join(f"{index} + {value}" if value else index for value, index in terms)


def superfluous_nodes(hkl: np.ndarray, space_group: str) -> list[Translation]:
    """Return the translations that a smaller cell has, by the nodes without spots. hkl: (n, 3) of
    the spots.
    """
    if len(hkl) < LEAST_SPOTS:
        return []
    P = symmetry.primitive(space_group)
    on_primitive = np.rint(hkl @ P).astype(int)
    suspects = []
    for n, vector in _vectors():
        share = float((on_primitive @ vector % n != 0).mean())
        if share < LARGEST_SHARE * (1.0 - 1.0 / n):
            suspects.append(_translation(P @ vector, n, share, len(hkl)))
    return suspects


def missing_nodes(indices: np.ndarray, space_group: str) -> Translation | None:
    """Return the nodes of a larger cell, as offsets of Miller indices, at which most spots lie that
    no lattice explains.

    indices: (n, 3) of these spots, no whole numbers, on the axes of the only lattice of their shot.
    """
    if len(indices) < LEAST_SPOTS:
        return None
    P = symmetry.primitive(space_group)
    on_primitive = indices @ P
    best = None
    for n, vector in _vectors():
        multiples = np.arange(1, n)[:, None, None] * vector / n
        offset = on_primitive - multiples
        is_near = (np.abs(offset - np.rint(offset)) < TOLERANCE).all(axis=2).any(axis=0)
        share = float(is_near.mean())
        if share > (LEAST_SHARE if best is None else best.share):
            best = _translation(np.linalg.inv(P).T @ vector, n, share, len(indices))
    return best


def _vectors() -> list[tuple[int, np.ndarray]]:
    """Return n and a vector (3,) for each lattice with a cell n times smaller or larger; of each n,
    those along an axis first.
    """
    vectors = []
    for n in DIVISORS:
        for values in product(range(n), repeat=3):
            first = next((value for value in values if value), 0)
            if first == 1:  # its multiples are the same lattice
                vectors.append((n, np.array(values)))
    return sorted(vectors, key=lambda pair: (pair[0], pair[1].sum(), (-pair[1]).tolist()))


def _translation(vector: np.ndarray, n: int, share: float, n_spots: int) -> Translation:
    """Return a translation of vector/n; its first component is positive."""
    sign = np.sign(vector[np.flatnonzero(vector)[0]])
    parts = [Fraction(float(sign * value)).limit_denominator(6) / n for value in vector]
    return Translation(tuple(parts), share, n_spots)
