"""SMV: the format of ADSC detectors, and of simulators that write as these do; one image a file."""

import io
import logging
from pathlib import Path

import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images import content, header_text
from spreadflow.io.images.header_text import ABOUT_HEADERS
from spreadflow.io.images.layout import Layout
from spreadflow.io.images.one_shot import Header, OneShotFile
from spreadflow.io.panels import detector, upright
from spreadflow.models import Detector

MAGIC = b"{"
"""First byte of an SMV file; `HEADER_BYTES` is the first key after it."""

FIRST_KEY = b"HEADER_BYTES"
"""The first key of a header."""

XDS_ORIGIN = ("XDS_ORGX", "XDS_ORGY")
"""Keys of the beam centre in the convention of XDS."""

BEAM_REMARK = (
    "BEAM_CENTER_X and BEAM_CENTER_Y are taken along slow and fast, as of ADSC detectors: compare "
    "with the direct beam"
)
"""What is said where the beam centre is stated otherwise."""

Settings = dict[str, str]
"""Key → value, as text."""


def is_smv(first: bytes) -> bool:
    """Whether the first bytes of a file, at least 20, are those of an SMV header."""
    return first.startswith(MAGIC) and first[1:].lstrip().startswith(FIRST_KEY)


def open_smv(path: Path | str, layout: Layout | None = None) -> OneShotFile:
    """Open an SMV file. layout: in place of the header's geometry. Raises FileError where it is
    truncated or its header makes no sense.
    """
    path = Path(path)
    settings, image = _read(path, content.whole(path))
    number = _Numbers(path, settings)
    shape = (number.pixels("SIZE2"), number.pixels("SIZE1"))
    if image.shape != shape:
        raise FileError(path, f"{shape} pixels", image.shape, "Check that it is complete.")

    lengths = np.zeros(0)
    if "WAVELENGTH" in settings:
        lengths = np.array([number.positive("WAVELENGTH")])

    pedestal = number.get("IMAGE_PEDESTAL", 0.0)
    gain = number.positive("GAIN") if "GAIN" in settings else 1.0
    header = Header(
        detector=lambda: _detector(path, number, shape),
        shape=(1, *shape),
        wavelengths=lengths,
        weights=np.ones(len(lengths)),
        trusted_range=_trusted(number, image.dtype, pedestal),
        pedestal=(pedestal, gain),
        remarks=() if number.has(*XDS_ORIGIN) or layout is not None else (BEAM_REMARK,),
    )
    return OneShotFile(path, header, lambda: image[None], layout)


def _read(path: Path, raw: bytes) -> tuple[Settings, np.ndarray]:
    """Return the header and the image (slow, fast), in the type it is stored in. Raises FileError
    where fabio can't read it.
    """
    import fabio.dtrekimage  # with all formats that it knows: it takes a while

    stream = io.BytesIO(raw)
    stream.name = str(path)
    logger = logging.getLogger("fabio.dtrekimage")
    level = logger.level
    logger.setLevel(logging.ERROR)  # a missing `Data_type` is a warning, and usual
    try:
        image = fabio.dtrekimage.DtrekImage().read(stream)
    except Exception as error:  # whatever damage makes it raise
        raise FileError(path, "a complete SMV file", error, ABOUT_HEADERS) from None
    finally:
        logger.setLevel(level)
    if image.data is None:
        raise FileError(path, "an image", "none", ABOUT_HEADERS)
    return dict(image.header), image.data


class _Numbers:
    """The numbers of a header. Raises FileError where one is wrong."""

    def __init__(self, path: Path, settings: Settings):
        self._path = path
        self._settings = settings

    def has(self, *keys: str) -> bool:
        """Whether the header has all of some keys."""
        return all(key in self._settings for key in keys)

    def get(self, key: str, default: float | None = None) -> float:
        """Return a finite number; the default, where there is one, without the key."""
        if default is not None and not self.has(key):
            return default
        return header_text.finite(self._path, key, self._settings.get(key))

    def positive(self, key: str) -> float:
        """Return a positive number."""
        value = self.get(key)
        if value <= 0:
            raise FileError(f"{self._path}: {key}", "a positive number", value, ABOUT_HEADERS)
        return value

    def pixels(self, key: str) -> int:
        """Return a number of pixels."""
        return header_text.pixels(self._path, key, self._settings.get(key))


def _detector(path: Path, number: _Numbers, shape: tuple[int, int]) -> Detector:
    """Return the detector of a header: one panel of a shape. Raises FileError."""
    if number.get("TWOTHETA", 0.0):
        raise FileError(path, "TWOTHETA 0", number.get("TWOTHETA"), "Not supported.")
    pixel_mm = number.positive("PIXEL_SIZE")
    beam_mm, distance_mm = _beam(number, pixel_mm)
    panel = upright(beam_mm, distance_mm, (pixel_mm, pixel_mm), shape)
    return detector(path, [panel])


def _beam(number: _Numbers, pixel_mm: float) -> tuple[tuple[float, float], float]:
    """Return the beam centre (fast, slow) from the outer corner of pixel (0, 0), and the distance,
    mm.

    XDS_ORGX and XDS_ORGY mean one thing: px along fast and slow, the first pixel's centre at 1. For
    want of them, BEAM_CENTER_X is taken along slow and BEAM_CENTER_Y along fast, as DIALS takes
    those of ADSC detectors.
    """
    distance_mm = number.positive("DISTANCE")
    if number.has(*XDS_ORIGIN):
        fast_mm, slow_mm = ((number.get(key) - 0.5) * pixel_mm for key in XDS_ORIGIN)
        return (fast_mm, slow_mm), distance_mm
    return (number.get("BEAM_CENTER_Y"), number.get("BEAM_CENTER_X")), distance_mm


def _trusted(number: _Numbers, dtype: np.dtype, pedestal: float) -> tuple[float, float]:
    """Return the lowest and the highest trusted ADU: 0 was not read where there is a pedestal, and
    the largest number of the type is saturated.
    """
    lowest = 1.0 if pedestal > 0 else -np.inf
    highest = float(np.iinfo(dtype).max - 1) if dtype.kind in "iu" else np.inf
    return lowest, min(highest, number.get("CCD_IMAGE_SATURATION", np.inf))
