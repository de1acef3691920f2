"""A shot as another program states it without its image: pulse, peaks, lattices with intensities.

What a reader of such files is, and what it yields. Columns that a file has of ours, by the names
that they have in docs/files.md, come with the rest: they take the place of what is worked out.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from spreadflow.io.lattices.indexed import IndexedLattice
from spreadflow.models import Detector, Spots

OwnColumns = Mapping[str, np.ndarray]
"""Name of a column of a product of ours → its rows."""


class ShotName(NamedTuple):
    """Which shot it is, as a file says before it is read."""

    image: str
    """file, as stated"""
    frame: int
    """in that file; -1 where `event` says which"""
    event: str
    """name in that file, where it is no number"""
    n_lattices: int


class StatedLattice(NamedTuple):
    """A lattice with its reflections, as stated."""

    line: int
    """number of its line in the file, or of the lattice, from 1"""
    lattice: IndexedLattice
    is_saturated: np.ndarray
    """(reflection,) bool"""
    d_min: float | None
    """resolution to which it diffracts, Å; None = not stated"""
    own: OwnColumns
    """one row of `lattices`"""
    own_reflections: OwnColumns
    """rows of `reflections`"""


class StatedShot(NamedTuple):
    """A shot, as stated. Intensities are in photons where the file says how."""

    energy_ev: float
    """mean of the pulse; 0 = not stated"""
    bandwidth: float | None
    """relative full width at half maximum of the pulse; None = not stated"""
    is_hit: bool
    spots: Spots | None
    """the peaks that the other program saw; None = it lists none"""
    lattices: list[StatedLattice]
    own: OwnColumns
    """one row of `shots`"""
    own_spots: OwnColumns
    """rows of `spots`"""


class StatedShots(Protocol):
    """What a reader is."""

    @property
    def detector(self) -> Detector:
        """That all shots share."""

    @property
    def names(self) -> Sequence[ShotName]:
        """The shots."""

    @property
    def torn(self) -> Sequence[int]:
        """Numbers of the lines at which shots begin that have no end."""

    @property
    def remarks(self) -> Sequence[str]:
        """What was assumed: a sentence each."""

    def read(self, number: int) -> StatedShot:
        """Return a shot. Raises FileError for numbers that are none."""
