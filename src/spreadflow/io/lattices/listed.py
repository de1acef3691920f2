"""The shots of several files that hold lattices of other programs, as one list."""

from pathlib import Path

import numpy as np

from spreadflow.config import LatticesSection
from spreadflow.errors import FileError
from spreadflow.io.images import shot_id
from spreadflow.io.lattices.files import open_shots
from spreadflow.io.lattices.stated import StatedShot
from spreadflow.io.rows import refuse_doubles
from spreadflow.physics.geometry import corner_distance_px

DETECTOR_TOLERANCE_PX = 0.05
"""Distance of corresponding panel corners up to which two detectors are the same: streams state
distances to a micrometre.
"""


class Listed:
    """The shots of all files of a run. Raises FileError where their detectors differ, or a shot is
    there twice.
    """

    def __init__(self, run: str, files: list[Path], section: LatticesSection):
        self._run = run
        self.files = files
        self._readers = [open_shots(path, section) for path in files]
        self._n_before = np.cumsum([0, *(len(reader.names) for reader in self._readers)])
        self.names = [name for reader in self._readers for name in reader.names]
        self.detector = self._readers[0].detector
        self.remarks = [remark for reader in self._readers for remark in reader.remarks]
        self.images = list(dict.fromkeys(name.image for name in self.names))
        """names of the image files, as stated"""
        self.columns = self._columns()
        """columns of the table `shots` that are known"""
        self._check_detectors()
        refuse_doubles(", ".join(map(str, files)), self.columns["shot_id"])

    def file(self, number: int) -> Path:
        """Return the file of a shot."""
        return self.files[self.file_number(number)]

    def file_number(self, number: int) -> int:
        """Return the number of the file of a shot."""
        return int(np.searchsorted(self._n_before, number, side="right")) - 1

    def read(self, number: int) -> StatedShot:
        """Return a shot. Raises FileError for numbers that are none."""
        file = self.file_number(number)
        return self._readers[file].read(number - int(self._n_before[file]))

    def torn(self) -> list[tuple[Path, int]]:
        """Return the file and the line of each shot that has no end."""
        of_files = zip(self.files, self._readers, strict=True)
        return [(path, line) for path, reader in of_files for line in reader.torn]

    def _columns(self) -> dict[str, np.ndarray]:
        """Return what is known of the shots before they are read."""
        file_of = {image: number for number, image in enumerate(self.images)}
        ids = [shot_id(self._run, name.image, name.event or name.frame) for name in self.names]
        return {
            "shot_id": np.array(ids, np.uint64),
            "file": np.array([file_of[name.image] for name in self.names], np.int32),
            "frame": np.array([name.frame for name in self.names], np.int32),
            "seconds": np.zeros(len(ids)),
        }

    def _check_detectors(self) -> None:
        """Raise FileError for the first file with another detector."""
        for path, reader in zip(self.files, self._readers, strict=True):
            away_px = corner_distance_px(reader.detector, self.detector)
            if away_px > DETECTOR_TOLERANCE_PX:
                expected = f"the detector of {self.files[0]}"
                found = f"a panel {away_px:.3g} px from that"
                raise FileError(path, expected, found, "Make one run for each detector.")
