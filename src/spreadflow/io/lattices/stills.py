"""Lattices as DIALS reads them: an experiment list and its reflections, .expt and .refl."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.lattices import dials_writer, reflections
from spreadflow.io.lattices.indexed import IndexedLattice
from spreadflow.io.lattices.product import ProductLattices
from spreadflow.models import Detector
from spreadflow.physics import geometry

PREDICTED, OBSERVED, INDEXED, STRONG, INTEGRATED = 1, 2, 4, 32, 256
"""Bits of the column `flags` of DIALS."""

UNKNOWN_VARIANCE = 1 / 12
"""px²; variance of an observed centroid of which none is known, in either direction: that of a
position which is known to be in a pixel.
"""


def export(product: Path, out: Path, images: Sequence[Path] = ()) -> list[Path]:
    """Write the lattices of a product as `out`.expt and .refl, and return these. images: manifests
    of its runs, where they were moved. Raises FileError.
    """
    return write(out, ProductLattices(product, images=images))


def write(out: Path, lattices: Iterable[IndexedLattice]) -> list[Path]:
    """Write lattices as `out`.expt and .refl, and return these: an experiment for each, with its
    reflections. They are gone through twice. Raises FileError where there is none.

    `xyzobs.px.value` is the observed centroid where there is one (`is_strong`), else the predicted
    one; columns that the lattices do not have are left out.
    """
    expt, refl = (out.with_name(f"{out.name}{ending}") for ending in (".expt", ".refl"))
    crystals: list[dials_writer.Still] = []
    numbers: dict[int, int] = {}
    detectors: list[tuple[Detector, str]] = []
    n_rows = 0
    names: list[str] = []
    for lattice in lattices:
        number = numbers.setdefault(id(lattice.detector), len(detectors))
        if number == len(detectors):
            detectors.append((lattice.detector, lattice.material))
        crystals.append(_still(lattice, number))
        n_rows += len(lattice.reflections.hkl)
        names = names or _names(lattice)
    if not crystals:
        raise FileError(expt, "lattices to be written", "none", "Look at the summary of the stage.")

    dials_writer.write_stills(expt, crystals, detectors)
    numbered = (_Numbered(number, lattice) for number, lattice in enumerate(lattices))
    reflections.write(
        refl,
        n_rows,
        {name: COLUMNS[name].kind for name in names},
        ({name: COLUMNS[name].rows(lattice) for name in names} for lattice in numbered),
        {number: crystal.identifier for number, crystal in enumerate(crystals)},
    )
    return [expt, refl]


def _still(lattice: IndexedLattice, detector: int) -> dials_writer.Still:
    """Return a lattice without its reflections. detector: number of its."""
    return dials_writer.Still(
        identifier=lattice.identifier,
        image=str(lattice.image),
        frame=lattice.frame,
        detector=detector,
        wavelength=lattice.wavelength,
        polarization=lattice.polarization,
        A=lattice.A,
        hall=lattice.hall,
    )


class _Numbered(NamedTuple):
    """A lattice and the number of its experiment."""

    number: int
    lattice: IndexedLattice


class _Column(NamedTuple):
    """A column of a reflection table."""

    kind: str
    """as DIALS names it"""
    rows: Callable[[_Numbered], np.ndarray]
    """its rows of a lattice"""
    source: str = "hkl"
    """the column of `IndexedReflections` without which it is left out"""


def _names(lattice: IndexedLattice) -> list[str]:
    """Return the columns that are written of such a lattice."""
    there = lattice.reflections._asdict()
    return [name for name, column in COLUMNS.items() if there[column.source] is not None]


def _column(one: _Numbered, name: str) -> np.ndarray:
    """Return a column that the reflections of a lattice have."""
    return getattr(one.lattice.reflections, name)


def _with_frame(fast: np.ndarray, slow: np.ndarray) -> np.ndarray:
    """Return positions (n, 3); stills have no third coordinate."""
    return np.stack([fast, slow, np.zeros(len(fast))], axis=1)


def _predicted(one: _Numbered) -> np.ndarray:
    """Return predicted centroids (n, 3), px."""
    return _with_frame(_column(one, "fast"), _column(one, "slow"))


def _has_spot(one: _Numbered) -> np.ndarray:
    """Return which reflections have an observed centroid, (n,) bool."""
    return np.isfinite(_column(one, "fast_obs"))


def _observed(one: _Numbered) -> np.ndarray:
    """Return the observed centroids (n, 3), px; predicted ones where there is none."""
    observed = _with_frame(_column(one, "fast_obs"), _column(one, "slow_obs"))
    return np.where(_has_spot(one)[:, None], observed, _predicted(one))


def _variance(one: _Numbered) -> np.ndarray:
    """Return the variances (n, 3), px², of observed centroids."""
    rows = one.lattice.reflections
    variance = np.full((len(rows.hkl), 2), UNKNOWN_VARIANCE)
    if rows.variance_obs is not None:
        is_known = np.isfinite(rows.variance_obs) & (rows.variance_obs > 0)
        variance = np.where(is_known, rows.variance_obs, variance)
    return _with_frame(*variance.T)


def _rays(one: _Numbered, position: np.ndarray) -> np.ndarray:
    """Return the unit vectors (n, 3) of the rays that are recorded at positions (n, 3), px."""
    panel = one.lattice.reflections.panel
    return geometry.direction(one.lattice.detector, panel, position[:, 0], position[:, 1])


def _mm(one: _Numbered, position: np.ndarray) -> np.ndarray:
    """Return where the rays that are recorded at positions (n, 3), px, meet the surface of their
    panel, (n, 3), mm, as DIALS' millimetres are.
    """
    detector = one.lattice.detector
    if detector.parallax_mm is None:
        return position * detector.pixel_mm
    surface = detector._replace(parallax_mm=None)
    panel = one.lattice.reflections.panel
    fast, slow = geometry.on_panel(surface, panel, _rays(one, position))
    return _with_frame(fast, slow) * detector.pixel_mm


def _boxes(one: _Numbered) -> np.ndarray:
    """Return shoeboxes (n, 6), of one frame."""
    bbox = _column(one, "bbox")
    frame = np.tile([0, 1], (len(bbox), 1))
    return np.concatenate([bbox, frame], axis=1)


def _flags(one: _Numbered) -> np.ndarray:
    """Return DIALS' bits of reflections (n,)."""
    of_spots = np.where(_has_spot(one), OBSERVED | INDEXED | STRONG, 0)
    is_integrated = one.lattice.reflections.intensity is not None
    return of_spots | PREDICTED | (INTEGRATED if is_integrated else 0)


def _square_of_sigma(one: _Numbered) -> np.ndarray:
    """Return the variances of the intensities (n,)."""
    return np.square(_column(one, "sigma"), dtype=np.float64)


def _same(name: str) -> Callable[[_Numbered], np.ndarray]:
    """Return what gives a column as it is."""
    return lambda one: _column(one, name)


COLUMNS: dict[str, _Column] = {
    "id": _Column("int", lambda one: np.full(len(one.lattice.reflections.hkl), one.number)),
    "panel": _Column("std::size_t", _same("panel")),
    "miller_index": _Column("cctbx::miller::index<>", _same("hkl")),
    "s1": _Column("vec3<double>", lambda one: _rays(one, _predicted(one)) / one.lattice.wavelength),
    "xyzobs.px.value": _Column("vec3<double>", _observed),
    "xyzobs.px.variance": _Column("vec3<double>", _variance),
    "xyzobs.mm.value": _Column("vec3<double>", lambda one: _mm(one, _observed(one))),
    "xyzobs.mm.variance": _Column(
        "vec3<double>", lambda one: _variance(one) * one.lattice.detector.pixel_mm**2
    ),
    "xyzcal.px": _Column("vec3<double>", _predicted),
    "xyzcal.mm": _Column("vec3<double>", lambda one: _mm(one, _predicted(one))),
    "bbox": _Column("int6", _boxes, "bbox"),
    "delpsical.rad": _Column("double", _same("delta_psi_rad"), "delta_psi_rad"),
    "d": _Column("double", _same("d"), "d"),
    "intensity.sum.value": _Column("double", _same("intensity"), "intensity"),
    "intensity.sum.variance": _Column("double", _square_of_sigma, "sigma"),
    "background.mean": _Column("double", _same("background"), "background"),
    "is_strong": _Column("bool", _has_spot),
    "flags": _Column("std::size_t", _flags),
}
"""Name of a column in DIALS → its type, and its rows of a lattice."""
