"""Files of other programs that hold lattices with intensities, told by their names."""

from pathlib import Path

from spreadflow.config import LatticesSection
from spreadflow.io.lattices.crystfel import Stream
from spreadflow.io.lattices.pair_shots import PairShots
from spreadflow.io.lattices.stated import StatedShots


def open_shots(path: Path, section: LatticesSection) -> StatedShots:
    """Return the shots of a file: of an .expt with the .refl beside, else of a CrystFEL stream.
    Raises FileError.
    """
    if path.suffix == ".expt":
        return PairShots(path, section.adu_per_photon)
    return Stream(path, section.geometry, section.adu_per_photon)
