"""Masks and colours to begin with: from the mean of some shots, and from where pixels lie.

This is no stage of the workflow: what it writes is offered, and used where a configuration names
it.
"""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from spreadflow.analysis.correlation import image_map, pixel_colours
from spreadflow.analysis.correlation.image_map import ImageMap
from spreadflow.config.correlate import CorrelateSection
from spreadflow.errors import ConfigError, FileError
from spreadflow.io import images, store
from spreadflow.io.colours import FEWEST_TESTED, MOST_TESTED, read_array, read_mask, write_array
from spreadflow.io.images.geom import Geom
from spreadflow.io.images.layout import panels_of
from spreadflow.models import Detector
from spreadflow.physics import geometry
from spreadflow.stages.correlation_source import source_of
from spreadflow.stream.run_shots import RunShots
from spreadflow.stream.shots import Source, each
from spreadflow.stream.stacks import Stacks
from spreadflow.units import wavelength

ARRAYS = ("mean", "mask", "test_mask", "colours", "fine_colours")
"""Arrays that are written, each also as an image; all but the mean are keys of `correlate`."""

MOST_LISTED = 1000
"""Places with several elements, or none, that are listed."""


class Request(NamedTuple):
    """What the user says."""

    section: CorrelateSection
    images: Path | None
    """manifest of the run that masks are for; None = the shots that the section names"""
    out: Path
    """beginning of the names of what is written"""
    n_shots: int
    """that the mean is of, at most"""
    n_colours: int
    n_fine_colours: int
    by: str | None
    """q or intensity; None = q where the geometry is known"""
    q_range: tuple[float, float] | None
    """Å⁻¹; None = that of all pixels"""
    geometry: Path | None
    """.geom or .expt; None = that of the images' headers, if they have one"""
    energy_ev: float | None
    """of the photons; None = as the header of the first image has it"""
    mask: Path | None
    """of pixels that may be used; None = all"""
    n_test_pixels: int
    is_replacing: bool


class Written(NamedTuple):
    """What was written."""

    figures: dict[str, Any]
    """of the JSON"""
    arrays: dict[str, np.ndarray]
    """of `ARRAYS`, in the shape of an image of the detector where its geometry is known"""


def start(request: Request, at: Callable[[int], None]) -> Written:
    """Write mean, masks and colours. at: is called with the number of shots that were averaged.
    Raises ConfigError or FileError.
    """
    _check(request)
    source = source_of(request.section, request.images)
    usable = np.ones(source.shape, bool)
    if request.mask is not None:
        usable = _usable(request.mask, source.shape)
    mean, usable, n_shots = _mean(request, source, usable, at)
    positions, pixel_mm = _positions_mm(request.geometry, source)
    q = _q(request, source, positions)
    by = request.by or ("intensity" if q is None else "q")
    colours, fine_colours = _colours(request, by, mean, q, usable)
    mask = (colours > 0).astype(np.int8)
    n_used = int(mask.sum())
    _check_enough(n_used)
    arrays = {
        "mean": mean,
        "mask": mask,
        "test_mask": pixel_colours.tested(mean, mask > 0, request.n_test_pixels),
        "colours": colours,
        "fine_colours": fine_colours,
    }
    places = _map(positions, pixel_mm, source.shape)
    figures = {
        "n_shots": n_shots,
        "n_pixels": mask.size,
        "n_used": n_used,
        "by": by,
        "colours": _of_colours(colours, mean, q),
        "n_fine_colours": len(np.unique(fine_colours[fine_colours > 0])),
        **_of_map(places),
    }
    _write(request.out, arrays, places, figures)
    pictured = arrays if places is None else {k: places.image(a) for k, a in arrays.items()}
    return Written(figures, pictured)


def to_image(path: Path, base: Path) -> np.ndarray:
    """Return an array of pixels as an image. base: as of what was written. Raises FileError."""
    places = _read_map(base)
    return places.image(read_array(path, places.row.shape))


def to_array(path: Path, base: Path) -> np.ndarray:
    """Return an image as an array of pixels. base: as of what was written. Raises FileError."""
    places = _read_map(base)
    return places.array(read_array(path, places.shape))


def named(base: Path, what: str) -> Path:
    """Return the name of a file that is written."""
    return base.with_name(f"{base.name}_{what}.npy")


def pictured(base: Path) -> Path:
    """Return the name of their picture."""
    return base.with_name(f"{base.name}.png")


def _check(request: Request) -> None:
    """Raise ConfigError or FileError where nothing can be written."""
    if not FEWEST_TESTED <= request.n_test_pixels <= MOST_TESTED:
        expected = f"{FEWEST_TESTED} to {MOST_TESTED}"
        raise ConfigError("--test-pixels", expected, request.n_test_pixels, "The loop is slow.")
    if request.n_fine_colours < request.n_colours:
        expected = f"as many as colours, {request.n_colours}, or more"
        raise ConfigError("--fine-colours", expected, request.n_fine_colours, "Add some.")
    if request.q_range is not None and not request.q_range[0] < request.q_range[1]:
        raise ConfigError("--q-range", "the smaller number first", request.q_range, "In Å⁻¹.")
    there = [path for path in (named(request.out, one) for one in ARRAYS) if path.exists()]
    if there and not request.is_replacing:
        raise FileError(there[0], "no file of this name", "one", "Use --force or another --out.")


def _check_enough(n_used: int) -> None:
    """Raise FileError where too few pixels are left for a mask, and for one for tests."""
    if n_used < FEWEST_TESTED:
        expected = f"at least {FEWEST_TESTED} pixels that may be used"
        todo = "Check --mask, --q-range and correlate.saturated."
        raise FileError("correlate mask start", expected, n_used, todo)


def _usable(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return the pixels that may be used, of a .npy as of `correlate.mask`, or of a mask as
    `spreadflow mask` writes it. Raises FileError.
    """
    if not h5py.is_hdf5(path):
        return read_mask(path, shape)
    usable = images.read_mask(path)
    if usable.size != np.prod(shape) or usable.shape[-1] != shape[-1]:
        raise FileError(path, f"a mask of images {shape}", usable.shape, "It is of another.")
    return usable.reshape(shape)


def _mean(
    request: Request, source: Source, usable: np.ndarray, at: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the mean of some shots, the usable pixels that were a number below the saturation in
    each, and how many shots that were. Raises FileError where there are none.
    """
    total = np.zeros(source.shape)
    n = 0
    for _, image in islice(each(source), request.n_shots):
        usable = usable & np.isfinite(image) & (image < request.section.saturated)
        total += np.where(np.isfinite(image), image, 0.0)
        n += 1
        at(n)
    if not n:
        raise FileError("correlate", "a shot that can be read", "none", "Check its source.")
    return total / n, usable, n


def _positions_mm(path: Path | None, source: Source) -> tuple[np.ndarray | None, float]:
    """Return where pixels are in the laboratory, the shape of an image with 3 more, mm, not a
    number for those of no panel; and the edge of a pixel. None where no geometry is known. Raises
    FileError for one of another detector.
    """
    stated = None if path is None else images.read_geometry(path)
    if stated is None and isinstance(source, Stacks | RunShots):
        stated = source.detector
    if stated is None:
        return None, 0.0
    numbers = np.arange(int(np.prod(source.shape))).reshape(source.shape)
    if isinstance(stated, Geom):
        layout = stated.layout(stated.path, None, None)
        detector = layout.detector
        modules = layout.fitted(stated.path, source.shape)
        of_panels = panels_of(numbers, modules, detector.shape)
    else:
        detector = stated
        whole = (detector.n_panels, *detector.shape)
        if np.prod(whole) != numbers.size or source.shape[-1] != whole[-1]:
            expected = f"images of panels {whole}"
            todo = "The geometry is of another detector."
            raise FileError(path or "correlate", expected, f"shape {source.shape}", todo)
        of_panels = numbers.reshape(whole)
    positions = np.full((numbers.size, 3), np.nan)
    positions[of_panels.ravel()] = _centres_mm(detector)
    return positions.reshape(*source.shape, 3), float(detector.pixel_mm)


def _centres_mm(detector: Detector) -> np.ndarray:
    """Return where the centres of all pixels are (pixel, 3), mm."""
    panel, slow, fast = np.indices((detector.n_panels, *detector.shape)).reshape(3, -1)
    return geometry.position(detector, panel, fast + 0.5, slow + 0.5)


def _q(request: Request, source: Source, positions: np.ndarray | None) -> np.ndarray | None:
    """Return q = 4 π sin θ / λ of each pixel, Å⁻¹; None where it can't be known and nobody asks.
    Raises ConfigError.
    """
    energy_ev = request.energy_ev
    if energy_ev is None and isinstance(source, Stacks | RunShots):
        energy_ev = source.energy_ev
    if positions is not None and energy_ev is not None:
        distance = np.linalg.norm(positions, axis=-1)
        sine = np.sqrt(np.maximum(0.5 * (1 - positions @ geometry.S0 / distance), 0.0))
        return 4 * np.pi * sine / wavelength(energy_ev)
    if request.by == "q":
        missing = "--geometry" if positions is None else "--energy-ev"
        todo = "Name it, or take --by intensity."
        raise ConfigError(missing, "what headers of the images don't state", "nothing", todo)
    return None


def _colours(
    request: Request, by: str, mean: np.ndarray, q: np.ndarray | None, usable: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return colours and fine colours of the pixels. Raises FileError where too few may be used."""
    numbers = (request.n_colours, request.n_fine_colours)
    if by == "intensity":
        coarse, fine = (pixel_colours.by_quantiles(mean, usable, n) for n in numbers)
        return coarse, fine
    assert q is not None, "asked for where it is known"
    of_usable = q[usable & np.isfinite(q)]
    _check_enough(len(of_usable))
    limits = request.q_range or (float(of_usable.min()), float(of_usable.max()))
    coarse, fine = (pixel_colours.by_rings(q, usable, n, limits) for n in numbers)
    return coarse, fine


def _map(positions: np.ndarray | None, pixel_mm: float, shape: tuple[int, ...]) -> ImageMap | None:
    """Return where pixels lie in an image: by the geometry, or as they are; None where neither."""
    if positions is not None:
        return image_map.of_positions(positions[..., 0], positions[..., 1], pixel_mm)
    return image_map.of_images((shape[0], shape[1])) if len(shape) == 2 else None


def _of_colours(
    colours: np.ndarray, mean: np.ndarray, q: np.ndarray | None
) -> dict[str, dict[str, float]]:
    """Return the figures of each colour."""
    figures: dict[str, dict[str, float]] = {}
    for colour in np.unique(colours[colours > 0]).tolist():
        is_own = colours == colour
        figures[str(colour)] = {"n": int(is_own.sum()), "mean": float(mean[is_own].mean())}
        if q is not None:
            figures[str(colour)]["q_per_ang"] = float(np.nanmean(q[is_own]))
    return figures


def _of_map(places: ImageMap | None) -> dict[str, Any]:
    """Return the figures of a map: places with several elements, or none."""
    if places is None:
        return {}
    shared = places.shared()
    gaps = places.gaps()
    return {
        "image_shape": places.shape,
        "n_shared": len(shared),
        "n_gaps": len(gaps),
        "shared": [[row, column, *elements] for row, column, elements in shared[:MOST_LISTED]],
        "gaps": gaps[:MOST_LISTED].tolist(),
    }


def _write(
    base: Path, arrays: dict[str, np.ndarray], places: ImageMap | None, figures: dict[str, Any]
) -> None:
    """Write arrays, their images, the map between them, and the figures. Raises FileError."""
    files = {named(base, name): array for name, array in arrays.items()}
    if places is not None:
        files |= {named(base, f"{name}_image"): places.image(a) for name, a in arrays.items()}
        files |= {named(base, "iX"): places.row, named(base, "iY"): places.column}
    for path, array in files.items():
        write_array(path, array)
    store.write_text(base.with_name(f"{base.name}.json"), json.dumps(figures, indent=1) + "\n")


def _read_map(base: Path) -> ImageMap:
    """Return the map between arrays and images that was written. Raises FileError."""
    row, column = (read_array(named(base, axis), None) for axis in ("iX", "iY"))
    if row.shape != column.shape:
        raise FileError(named(base, "iY"), f"shape {row.shape}, that of iX", column.shape, "")
    return ImageMap(row, column)
