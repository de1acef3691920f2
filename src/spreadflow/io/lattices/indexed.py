"""A lattice as a program indexed it: what every reader of lattices yields, and every writer takes.

A reader is a sequence of lattices (`IndexedLattices`), each read when it is asked for; one that
can't be read raises FileError, and costs no other. A writer takes any iterable that starts anew
each time.
"""

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from spreadflow.models import Detector


class IndexedReflections(NamedTuple):
    """The reflections of a lattice, in columns of as many rows. Columns that a file lacks are
    None.
    """

    hkl: np.ndarray
    """(n, 3) int; 0 0 0 = not indexed"""
    panel: np.ndarray
    """(n,) int"""
    fast_obs: np.ndarray | None = None
    """(n,) px, observed centroid; not finite = none"""
    slow_obs: np.ndarray | None = None
    """(n,) px, observed centroid"""
    variance_obs: np.ndarray | None = None
    """(n, 2) px², of the observed centroid, fast and slow; not finite = not known"""
    fast: np.ndarray | None = None
    """(n,) px, predicted centroid"""
    slow: np.ndarray | None = None
    """(n,) px, predicted centroid"""
    intensity: np.ndarray | None = None
    """(n,) above background, in the unit of the file"""
    sigma: np.ndarray | None = None
    """(n,) its standard deviation"""
    background: np.ndarray | None = None
    """(n,) mean in a pixel under the peak"""
    d: np.ndarray | None = None
    """(n,) Å, resolution"""
    delta_psi_rad: np.ndarray | None = None
    """(n,) rad, rotation onto the Ewald sphere"""
    bbox: np.ndarray | None = None
    """(n, 4) px, fast0 fast1 slow0 slow1, half open"""

    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Return fast and slow, each (n,), px, of the observed centroids, or of the predicted ones
        where the file has no others.
        """
        pair = (self.fast, self.slow) if self.fast_obs is None else (self.fast_obs, self.slow_obs)
        fast, slow = pair
        assert fast is not None and slow is not None
        return fast, slow


class IndexedLattice(NamedTuple):
    """One lattice of a shot."""

    identifier: str
    """that nothing else in its files has; may be empty where it was read"""
    image: Path
    """file of the shot, as it is stated; relative names start at the folder of the list"""
    frame: int
    """in that file; -1 where `event` says which"""
    A: np.ndarray
    """(3, 3) columns a*, b*, c* in the lab frame, Å⁻¹"""
    hall: str
    """Hall symbol, on the axes of A, of the space group or of what is known of it: its Laue
    group
    """
    wavelength: float
    """of the beam, Å"""
    detector: Detector
    """the same object for all lattices that share it"""
    reflections: IndexedReflections
    event: str = ""
    """which shot of the file, where its name is no number"""
    polarization: float = 1.0
    """Kahn's K along the lab x axis"""
    material: str = ""
    """of the detector's sensor; empty = not known"""


class IndexedLattices(Protocol):
    """What a reader is."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> IndexedLattice:
        """Return a lattice. Raises FileError for one that can't be read."""
