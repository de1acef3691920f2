"""Formats of image files: what every reader offers, and which reader opens a file.

A reader is a module of its own, such as `nexus`. This module alone names it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images import cbf, content, smv
from spreadflow.io.images.crystfel import CrystfelFile
from spreadflow.io.images.geom import Geom
from spreadflow.io.images.geom_masks import Masks
from spreadflow.io.images.geometry import Geometry, read_geometry
from spreadflow.io.images.kept import KeptArrays
from spreadflow.io.images.layout import Layout
from spreadflow.io.images.locator import is_locator, read_locator
from spreadflow.io.images.nexus import NexusFile, is_nexus
from spreadflow.io.images.nexus_items import BROKEN
from spreadflow.io.images.xtc import XtcFile
from spreadflow.models import Detector, Spectrum

NEXUS = "NXmx (HDF5)"

CRYSTFEL = "HDF5 with a CrystFEL geometry file"

CBF = "CBF (full or mini)"

SMV = "SMV"

XTC = "XTC or XTC2 by a locator"

FORMATS = (NEXUS, CRYSTFEL, CBF, SMV, XTC)
"""The formats that there are readers of, in words."""

N_BYTES_READ = 4096
"""First bytes by which formats are told from each other: a locator may begin with comments."""

N_BYTES_SHOWN = 16
"""Bytes of an unknown file that its error shows."""


class ImageFile(Protocol):
    """An image file, open for reading: its shots, and what its header says of them.

    Opening one raises FileError where the file is missing, damaged or of another format.
    """

    @property
    def n_frames(self) -> int:
        """The number of shots in the file."""

    @property
    def detector(self) -> Detector:
        """The detector as the header has it, in the laboratory frame."""

    @property
    def mask(self) -> np.ndarray:
        """The pixels that may be used, (panel, slow, fast) bool."""

    @property
    def trusted_range(self) -> tuple[float, float]:
        """The lowest and the highest trusted ADU of what `frame` returns, both inclusive; infinite
        where not stated.
        """

    @property
    def pedestal(self) -> tuple[float, float]:
        """The pedestal (ADU) and the gain (ADU per photon) of what `frame` returns; 0 and 1 where
        not stated.
        """

    @property
    def polarization(self) -> float | None:
        """Kahn's K along the lab x axis, as the header has it; None where not stated."""

    @property
    def remarks(self) -> list[str]:
        """What the file leaves open and was assumed, or lacks: a sentence each, without a path."""

    @property
    def shot_ids(self) -> np.ndarray | None:
        """The (frame,) uint64 identities that the file itself gives its shots, or None."""

    def frame(self, number: int, kept: KeptArrays | None = None) -> np.ndarray:
        """Return an image (panel, slow, fast) as it is stored, ADU. What differs between images,
        or pixels, of offset and gain was applied; NaN where a pixel of this image alone must not be
        used. Raises OSError where it is damaged.

        kept: arrays that the image may be read into, where this saves time; None = a new one.
        """

    def spectrum(self, number: int) -> Spectrum:
        """Return the spectrum of a shot as it is stored, energies (eV) ascending: one channel of 1
        photon where only a wavelength was recorded. Raises FileError where there is neither.
        """

    def spectra(self, frames: slice) -> Spectrum:
        """Return the spectra of many shots: photons (shot, channel), and energies (channel,) where
        the shots share them, else (shot, channel). Raises FileError, as `spectrum`.
        """

    def close(self) -> None:
        """Close the file."""


def open_image(path: Path | str, geometry: Geometry | None = None) -> ImageFile:
    """Open an image file with the reader of its format, which is known by the file's content.

    geometry: in place of that in the header, which is then not read; a .geom describes HDF5 that is
    no NXmx as a whole. Raises FileError where the file is missing or damaged, no reader knows its
    format, or the geometry is of another detector.
    """
    path = Path(path)
    kind = format_of(path, geometry)
    if kind == CRYSTFEL and isinstance(geometry, Geom):
        return CrystfelFile(path, geometry)
    if kind == NEXUS:
        return NexusFile(path, _layout(path, geometry))
    if kind == XTC:
        named = named_geometry(path) if geometry is None else None
        return XtcFile(path, _layout(path, read_geometry(named) if named else geometry))
    open_file = cbf.open_cbf if kind == CBF else smv.open_smv
    return open_file(path, _layout(path, geometry))


def format_of(path: Path | str, geometry: Geometry | None = None) -> str:
    """Return the name of an image file's format, one of `FORMATS`. HDF5 counts as NXmx, unless
    there is a .geom as its geometry, and it is none. Raises FileError where the file is missing, or
    no reader knows its format.
    """
    path = Path(path)
    try:
        beginning = content.beginning(path, N_BYTES_READ)
    except OSError as error:
        raise FileError(path, "an image file", error, "Check where the images are.") from None
    if h5py.is_hdf5(path):
        return CRYSTFEL if isinstance(geometry, Geom) and not _is_nexus(path) else NEXUS
    if beginning.startswith(cbf.MAGIC):
        return CBF
    if smv.is_smv(beginning):
        return SMV
    if is_locator(beginning):
        return XTC
    expected = f"an image file in a format that can be read: {', '.join(FORMATS)}"
    shown = beginning[:N_BYTES_SHOWN]
    found = f"a file that begins with {shown!r}" if shown else "an empty file"
    raise FileError(path, expected, found, "Convert it to NXmx: docs/files.md, image files.")


def named_geometry(path: Path | str) -> Path | None:
    """Return the geometry file that an image file names, as locators may; None where it names none,
    or can't be read. Raises FileError for a locator that makes no sense.
    """
    path = Path(path)
    try:
        beginning = content.beginning(path, N_BYTES_READ)
    except OSError:
        return None
    named = read_locator(path).geometry if is_locator(beginning) else ""
    return path.parent / named if named else None


def _is_nexus(path: Path) -> bool:
    """Whether an HDF5 file is NXmx. Raises FileError where it is damaged."""
    with _readable(path) as file:
        return is_nexus(file)


@contextmanager
def _readable(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for a while. Raises FileError where it is damaged."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except BROKEN as error:
        expected = "a readable HDF5 file"
        raise FileError(path, expected, error, "Check that it is complete.") from None


def _layout(path: Path, geometry: Geometry | None) -> Layout | None:
    """Return a geometry as what stands in place of an image file's. Raises FileError for axes of
    data in an order that only a .geom may describe.
    """
    if not isinstance(geometry, Geom):
        return None if geometry is None else Layout(geometry)
    axes = geometry.axes_of_data
    if list(axes) != sorted(axes):
        expected = "dimensions in the order frames, numbers, ss, fs"
        raise FileError(geometry.path, expected, "another", "State them as the file has them.")
    layout = _placed(path, geometry)
    if not geometry.of_pixels:
        return layout
    names = ", ".join(geometry.of_pixels)
    unused = f"{geometry.path.name}: the geometry alone is taken from it; not used: {names}"
    return layout._replace(remarks=[*layout.remarks, unused])


def _placed(path: Path, geometry: Geom) -> Layout:
    """Return where a .geom places the pixels of an image file, and which it masks. Raises FileError
    where it names what the file lacks.
    """
    good = Masks(geometry, None).good
    if not h5py.is_hdf5(path):
        return geometry.layout(path, None, good)
    with _readable(path) as file:
        return geometry.layout(path, file, good)
