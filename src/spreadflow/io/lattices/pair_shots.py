"""Pairs of integrated .expt and .refl as shots with lattices and intensities.

DIALS integrates sums that nothing has been divided by; its Lorentz and polarization factor is a
column beside them, which is not read. Peaks are not listed: reflections have observed places.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.lattices.pairs import Pair
from spreadflow.io.lattices.stated import ShotName, StatedLattice, StatedShot
from spreadflow.units import energy

ABOUT_PAIRS = "Take integrated lists, as dials.stills_process writes them."
"""What to do about a pair that has no intensities."""


class PairShots:
    """A pair of files: `StatedShots`. Raises FileError where one is none, or lacks intensities."""

    torn: Sequence[int] = ()
    remarks: Sequence[str] = ()

    def __init__(self, expt: Path | str, adu_per_photon: float | None = None):
        """Open a pair, the .refl of the same name. adu_per_photon: that intensities are divided
        by.
        """
        self.path = Path(expt)
        self._pair = Pair(self.path, self.path.with_suffix(".refl"))
        self._gain = adu_per_photon or 1.0
        if not len(self._pair):
            raise FileError(self.path, "experiments", "none", ABOUT_PAIRS)
        numbers: dict[tuple[str, int], list[int]] = {}
        for number in range(len(self._pair)):
            lattice = self._pair[number]
            numbers.setdefault((str(lattice.image), lattice.frame), []).append(number)
        self._numbers = list(numbers.values())
        self.detector = self._pair[0].detector
        self.names = [
            ShotName(image, frame, "", len(own)) for (image, frame), own in numbers.items()
        ]

    def read(self, number: int) -> StatedShot:
        """Return a shot. Raises FileError where intensities are missing."""
        lattices = [self._stated(row) for row in self._numbers[number]]
        return StatedShot(
            energy_ev=float(energy(lattices[0].lattice.wavelength)),
            bandwidth=None,
            is_hit=True,
            spots=None,
            lattices=lattices,
            own={},
            own_spots={},
        )

    def _stated(self, row: int) -> StatedLattice:
        """Return an experiment of the list with its intensities in photons."""
        lattice = self._pair[row]
        rows = lattice.reflections
        if rows.intensity is None or rows.sigma is None:
            where = self.path.with_suffix(".refl")
            expected = "columns intensity.sum.value and intensity.sum.variance"
            raise FileError(where, expected, "none", ABOUT_PAIRS)
        reflections = rows._replace(
            intensity=rows.intensity / self._gain,
            sigma=rows.sigma / self._gain,
            background=None if rows.background is None else rows.background / self._gain,
        )
        return StatedLattice(
            line=row + 1,
            lattice=lattice._replace(reflections=reflections),
            is_saturated=np.zeros(len(rows.hkl), bool),
            d_min=None,
            own={},
            own_reflections={},
        )
