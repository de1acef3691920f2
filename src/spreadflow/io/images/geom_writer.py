"""CrystFEL geometry files (.geom) written of our detectors: what `geom` reads, the other way.

Panels are stacked along an axis of the data, as in NXmx files: dimensions (frame, panel, slow,
fast), without the panel where there is one. CrystFEL knows no sensor: thickness and attenuation are
not in the file. Its vectors have no exponents.
"""

import numpy as np

from spreadflow.io.images.geom import LAB_FROM_CRYSTFEL
from spreadflow.models import Detector

N_DIGITS = 12
"""Decimals of components of unit vectors, and of m: the rounding of pixels is below 1e-8 px, and
256 panels fit into the 64 kB to which older versions read the header of a stream.
"""

CORNER_DIGITS = 9
"""Decimals of corners, px."""

DATA = "/entry/data/data"
"""Where NXmx files have their images."""


def panel_name(panel: int) -> str:
    """Return the name of a panel."""
    return f"p{panel}"


def geom_of(detector: Detector, *, energy_ev: float, adu_per_photon: float = 1.0) -> str:
    """Return the text of a geometry file. energy_ev: of the photons, for files without."""
    slow, fast = detector.shape
    pixel_mm = float(detector.pixel_mm)
    has_panels = detector.n_panels > 1
    dimensions = ["%", *(["panel"] if has_panels else []), "ss", "fs"]
    corners_mm = LAB_FROM_CRYSTFEL * np.asarray(detector.origin_mm)
    length_mm = float(corners_mm[0, 2])
    lines = [
        "; written by spreadflow",
        f"photon_energy = {energy_ev!r} eV",
        f"adu_per_photon = {adu_per_photon!r}",
        f"clen = {length_mm / 1e3!r} m",
        f"res = {1e3 / pixel_mm!r}",
        f"data = {DATA}",
        *(f"dim{n} = {axis}" for n, axis in enumerate(dimensions) if axis != "panel"),
        "min_fs = 0",
        f"max_fs = {fast - 1}",
        "min_ss = 0",
        f"max_ss = {slow - 1}",
    ]
    for panel in range(detector.n_panels):
        name = panel_name(panel)
        x, y, z = corners_mm[panel].tolist()
        lines += [
            "",
            *([f"{name}/dim1 = {panel}"] if has_panels else []),
            f"{name}/corner_x = {x / pixel_mm:.{CORNER_DIGITS}f}",
            f"{name}/corner_y = {y / pixel_mm:.{CORNER_DIGITS}f}",
            f"{name}/coffset = {(z - length_mm) / 1e3:.{N_DIGITS}f}",
            f"{name}/fs = {_vector(detector.fast[panel])}",
            f"{name}/ss = {_vector(detector.slow[panel])}",
        ]
    return "\n".join(lines) + "\n"


def _vector(axis: np.ndarray) -> str:
    """Return a unit vector of the laboratory as the file has it."""
    components = zip((LAB_FROM_CRYSTFEL * axis).tolist(), "xyz", strict=True)
    terms = [f"{value:+.{N_DIGITS}f}{name}" for value, name in components if value]
    return " ".join(terms)
