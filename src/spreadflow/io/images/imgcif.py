"""Headers of full CBF: arrays, sections and the chain of axes that places them (imgCIF).

The imgCIF laboratory frame has z towards the source and is the laboratory frame of this library.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images import header_text, polarization
from spreadflow.io.images.header_text import ABOUT_HEADERS
from spreadflow.io.images.one_shot import Header
from spreadflow.io.panels import LONGEST_CHAIN, Panel, detector
from spreadflow.models import Detector
from spreadflow.physics.rotation import from_vector
from spreadflow.units import DEG

BEAM_TOLERANCE = 1e-6
"""Largest component across z of the unit vector to the source."""

LINEAR = ("linear", "raw", "offset", "scaling", "scaling_offset")
"""Ways of storing intensities that are understood: at most, they are scaled and displaced."""

Row = Mapping[str, str]
"""A row of a category: items that have a value."""


class PanelPixels(NamedTuple):
    """Where the pixels of a panel are in the file."""

    array: int
    """number of the binary section"""
    shape: tuple[int, ...]
    """of the array that is stored there, the fastest axis last"""
    pixels: tuple[slice, ...]
    """the panel's in that array"""
    is_transposed: bool
    """whether the rows that are stored are the panel's columns"""


class _Axis(NamedTuple):
    """An axis of the beamline."""

    kind: str
    depends_on: str | None
    vector: np.ndarray
    offset_mm: np.ndarray


class _Index(NamedTuple):
    """An index of an array or of a section of one."""

    number: int
    dimension: int
    precedence: int
    axis_set: str | None


Arrays = dict[tuple[str, str | None], list[_Index]]
"""(array, section or None) → its indices, the fastest first."""


def is_full(block: gemmi.cif.Block) -> bool:
    """Whether a header places its pixels by axes."""
    names = ("_axis.", "_array_structure_list.", "_array_structure_list_axis.")
    return all(block.get_mmcif_category(name) for name in names)


def read(where: object, block: gemmi.cif.Block) -> tuple[Header, list[PanelPixels]]:
    """Return what a full header states, and where each panel's pixels are. where: the file, for
    errors. Raises FileError where it is incomplete, contradicts itself or is not supported.
    """
    header = _Categories(where, block)
    arrays = _arrays(header)
    numbers = _array_numbers(header)
    along = []
    places = []
    for (array, section), described in arrays.items():
        indices = [index for index in described if index.axis_set is not None]
        if not indices:  # an array that only its sections place
            continue
        if array not in numbers:
            raise FileError(where, f"pixels of {array}", "none", "Check that it is complete.")
        whole = arrays.get((array, None), described)
        place = _place(header, (array, section), indices, whole)
        places.append(place._replace(array=numbers[array]))
        along.append(indices)
    if not along:
        raise FileError(where, "arrays with axes", "none", ABOUT_HEADERS)

    used = {array for array, _ in arrays}
    intensities = [row for row in header.rows("_array_intensities") if row.get("array_id") in used]
    shapes = {(slow.dimension, fast.dimension) for fast, slow in along}
    if len(shapes) > 1:
        raise FileError(where, "panels of equal shape", sorted(shapes), "Not supported.")
    stated = _stated(header, intensities, (len(along), *shapes.pop()))
    return stated._replace(detector=lambda: _detector(header, along)), places


def read_without_axes(where: object, block: gemmi.cif.Block, shape: tuple[int, int, int]) -> Header:
    """Return what a header states of images that it places nowhere. where: as of `read`. shape:
    (plane, slow, fast) of its one binary section. Raises FileError.
    """
    header = _Categories(where, block)
    return _stated(header, header.rows("_array_intensities"), shape)


def _detector(header: "_Categories", along: Sequence[Sequence["_Index"]]) -> Detector:
    """Return the detector whose panels have these indices, fast and slow. Raises FileError."""
    geometry = _Geometry(header)
    return detector(header.where, [geometry.panel(fast, slow) for fast, slow in along])


def _no_detector() -> Detector:
    """Raise: a header without axes has none; it is opened where another takes its place."""
    raise NotImplementedError


def _stated(
    header: "_Categories", intensities: Sequence[Row], shape: tuple[int, int, int]
) -> Header:
    """Return what a header states, but for its detector. intensities: rows of the arrays that are
    used. shape: (panel, slow, fast). Raises FileError.
    """
    lengths, weights = _wavelengths(header)
    low, high, gaps = _trusted(header, intensities)
    kahn, remarks = _polarization(header)
    return Header(
        detector=_no_detector,
        shape=shape,
        wavelengths=lengths,
        weights=weights,
        trusted_range=(low, high),
        pedestal=_pedestal(header, intensities),
        gaps=gaps,
        polarization=kahn,
        remarks=remarks,
    )


class _Categories:
    """The categories of a block, and where it is, for errors."""

    def __init__(self, where: object, block: gemmi.cif.Block):
        self.where = where
        self._block = block
        self._rows: dict[str, list[Row]] = {}

    def rows(self, category: str) -> list[Row]:
        """Return the rows of a category; items without a value are left out."""
        if category not in self._rows:
            columns = self._block.get_mmcif_category(f"{category}.", raw=True)
            names = [name.lower() for name in columns]
            self._rows[category] = [
                {
                    name: gemmi.cif.as_string(value)
                    for name, value in zip(names, values, strict=True)
                    if not gemmi.cif.is_null(value)
                }
                for values in zip(*columns.values(), strict=True)
            ]
        return self._rows[category]

    def number(self, row: Row, name: str, default: float | None = None) -> float:
        """Return a number of a row. Raises FileError where it is none, or is not there and has no
        default.
        """
        if name not in row and default is not None:
            return default
        return header_text.finite(self.where, name, row.get(name))

    def count(self, row: Row, name: str) -> int:
        """Return a number of pixels or an index of a row, from 1. Raises FileError."""
        return header_text.pixels(self.where, name, row.get(name))

    def name(self, row: Row, name: str) -> str:
        """Return an item of a row that has to be there. Raises FileError."""
        if name not in row:
            raise FileError(self.where, f"an item {name}", "none", ABOUT_HEADERS)
        return row[name]


# ---------------------------------------------------------------- arrays and sections


def _arrays(header: _Categories) -> Arrays:
    """Return the indices of all arrays and sections, of each the fastest first."""
    arrays: Arrays = {}
    for row in header.rows("_array_structure_list"):
        if row.get("direction", "increasing") != "increasing":
            expected = "indices in the direction `increasing`"
            raise FileError(header.where, expected, row["direction"], "Not supported.")
        index = _Index(
            number=header.count(row, "index"),
            dimension=header.count(row, "dimension"),
            precedence=header.count(row, "precedence"),
            axis_set=row.get("axis_set_id"),
        )
        key = (header.name(row, "array_id"), row.get("array_section_id"))
        arrays.setdefault(key, []).append(index)
    return {
        key: sorted(indices, key=lambda index: index.precedence) for key, indices in arrays.items()
    }


def _array_numbers(header: _Categories) -> dict[str, int]:
    """Return the number of the binary section of each array. Raises FileError where an array has
    several: images of several shots.
    """
    numbers: dict[str, int] = {}
    for number, row in enumerate(header.rows("_array_data")):
        array = header.name(row, "array_id")
        if array in numbers:
            expected = "one image a file"
            raise FileError(header.where, expected, f"several of {array}", "Split the file.")
        numbers[array] = number
    return numbers


def _place(
    header: _Categories,
    key: tuple[str, str | None],
    indices: Sequence[_Index],
    whole: Sequence[_Index],
) -> PanelPixels:
    """Return where the pixels of an array or section are; whole: the indices of its array. Raises
    FileError where a panel is not a plane of it, or does not lie within it.
    """
    slowest_first = whole[::-1]
    edges = _edges(header, key)
    slices = []
    for index in slowest_first:
        start, end = edges.get(index.number, (1, index.dimension))
        slices.append(slice(start - 1, end))
    shape = tuple(index.dimension for index in slowest_first)
    is_within = all(place.stop <= size for place, size in zip(slices, shape, strict=True))

    sizes = {index.number: index.dimension for index in indices}
    wanted = [sizes.get(index.number, 1) for index in slowest_first]
    lengths = [place.stop - place.start for place in slices]
    if len(sizes) != 2 or lengths != wanted or not is_within:
        array, section = key
        expected = f"two indices of {section or array}, of {wanted} pixels, within its array"
        raise FileError(header.where, expected, f"{lengths} pixels", ABOUT_HEADERS)

    order = [index.number for index in whole]
    fast, slow = (order.index(index.number) for index in indices)
    return PanelPixels(0, shape, tuple(slices), is_transposed=fast > slow)


def _edges(header: _Categories, key: tuple[str, str | None]) -> dict[int, tuple[int, int]]:
    """Return the first and last pixel of a section along each index of its array. Raises FileError
    where it leaves some out.
    """
    edges = {}
    for row in header.rows("_array_structure_list_section"):
        if (row.get("array_id"), row.get("id")) != key:
            continue
        if header.number(row, "stride", 1.0) != 1:
            raise FileError(header.where, "a stride of 1", row["stride"], "Not supported.")
        edges[header.count(row, "index")] = (header.count(row, "start"), header.count(row, "end"))
    return edges


# ---------------------------------------------------------------- axes


class _Geometry:
    """The axes of a header at the settings of its one frame. Raises FileError."""

    def __init__(self, header: _Categories):
        self._header = header
        self._axes = {header.name(row, "id"): self._axis(row) for row in header.rows("_axis")}
        self._settings = self._frame_settings()
        self._steps = {
            header.name(row, "axis_set_id"): self._step(row)
            for row in header.rows("_array_structure_list_axis")
        }
        if len(self._steps) < len(header.rows("_array_structure_list_axis")):
            expected = "one axis for each index of an array"
            raise FileError(header.where, expected, "several", "Not supported.")
        self._check_beam()

    def panel(self, fast: _Index, slow: _Index) -> Panel:
        """Return the panel whose indices run along two sets of axes."""
        sets = [index.axis_set or "" for index in (fast, slow)]
        for name in sets:
            if name not in self._steps:
                raise FileError(self._header.where, f"steps along {name}", "none", ABOUT_HEADERS)
        steps = [self._steps[name] for name in sets]
        settings = dict(self._settings)
        for axis, corner_mm, _ in steps:
            settings[axis] = (0.0, corner_mm)

        chains = [self._chain(axis) for axis, _, _ in steps]
        outer = max(chains, key=len)
        is_along = all(self._axes[axis].kind == "translation" for axis, _, _ in steps)
        if not is_along or any(axis not in outer for axis, _, _ in steps):
            expected = f"translations {sets[0]} and {sets[1]}, of which one depends on the other"
            raise FileError(self._header.where, expected, "others", "Not supported.")
        places = [self._to_lab(chain, settings) for chain in chains]
        vectors = [
            place[:3, :3] @ self._axes[axis].vector * step_mm
            for place, (axis, _, step_mm) in zip(places, steps, strict=True)
        ]
        return Panel(
            origin_mm=self._to_lab(outer, settings)[:3, 3],
            fast_mm=vectors[0],
            slow_mm=vectors[1],
            shape=(slow.dimension, fast.dimension),
        )

    def _axis(self, row: Row) -> _Axis:
        """Return an axis. Raises FileError where its vector is none."""
        number = self._header.number
        vector = np.array([number(row, f"vector[{i}]", 0.0) for i in (1, 2, 3)])
        offset_mm = np.array([number(row, f"offset[{i}]", 0.0) for i in (1, 2, 3)])
        length = np.linalg.norm(vector)
        kind = row.get("type", "general")
        if kind in ("rotation", "translation") and not length > 0:
            expected = f"a vector of axis {row['id']}"
            raise FileError(self._header.where, expected, "0 0 0", ABOUT_HEADERS)
        if self._header.number(row, "rotation", 0.0):
            expected = f"an axis {row['id']} without a rotation of its own"
            raise FileError(self._header.where, expected, row["rotation"], "Not supported.")
        return _Axis(kind, row.get("depends_on"), vector / (length or 1.0), offset_mm)

    def _frame_settings(self) -> dict[str, tuple[float, float]]:
        """Return angle (degrees) and displacement (mm) of each axis that is stated: in the frame,
        else where the scan starts.
        """
        settings: dict[str, tuple[float, float]] = {}
        number = self._header.number
        for row in self._header.rows("_diffrn_scan_axis"):
            axis = self._header.name(row, "axis_id")
            angle = number(row, "angle_start", 0.0)
            settings[axis] = (angle, number(row, "displacement_start", 0.0))

        in_frame: dict[str, tuple[float, float]] = {}
        for row in self._header.rows("_diffrn_scan_frame_axis"):
            axis = self._header.name(row, "axis_id")
            setting = (number(row, "angle", 0.0), number(row, "displacement", 0.0))
            if in_frame.setdefault(axis, setting) != setting:
                expected = f"one setting of {axis}"
                raise FileError(self._header.where, expected, "several", "Split the file.")
        return settings | in_frame

    def _step(self, row: Row) -> tuple[str, float, float]:
        """Return the axis of a set, its displacement at the outer edge of the first pixel, and from
        a pixel to the next, mm.

        A displacement is one of the first pixel's centre (imgCIF dictionary). 0 is taken for its
        outer edge, as cctbx.xfel writes and DIALS reads it.
        """
        step_mm = self._header.number(row, "displacement_increment")
        first_mm = self._header.number(row, "displacement", 0.0)
        corner_mm = first_mm - step_mm / 2 if first_mm else 0.0
        axis = row.get("axis_id", self._header.name(row, "axis_set_id"))
        return axis, corner_mm, step_mm

    def _chain(self, name: str) -> list[str]:
        """Return the axes from the laboratory to one of them. Raises FileError where the chain is
        broken or a circle.
        """
        chain: list[str] = []
        link: str | None = name
        while link is not None:
            if link not in self._axes or len(chain) > LONGEST_CHAIN:
                expected = f"a chain of axes from {name} to the laboratory"
                found = f"no axis {link}" if link not in self._axes else "a circle"
                raise FileError(self._header.where, expected, found, ABOUT_HEADERS)
            chain.append(link)
            link = self._axes[link].depends_on
        return chain[::-1]

    def _to_lab(self, chain: Sequence[str], settings: Mapping[str, tuple]) -> np.ndarray:
        """Return the (4, 4) transformation, mm, from the frame of the last axis of a chain."""
        total = np.eye(4)
        for name in chain:
            axis = self._axes[name]
            angle, displacement_mm = settings.get(name, (0.0, 0.0))
            link = np.eye(4)
            link[:3, 3] = axis.offset_mm
            if axis.kind == "rotation" and angle:
                link[:3, :3] = from_vector(axis.vector * angle * DEG)
            elif axis.kind == "translation":
                link[:3, 3] += axis.vector * displacement_mm
            total = total @ link
        return total

    def _check_beam(self) -> None:
        """Raise FileError where the header has the source elsewhere than along z."""
        for row in self._header.rows("_axis"):
            if row.get("equipment") != "source":
                continue
            vector = self._axes[row["id"]].vector
            if np.any(vector) and np.linalg.norm(vector - [0, 0, 1]) > BEAM_TOLERANCE:
                raise FileError(self._header.where, "a source along z", vector, "Not supported.")


# ---------------------------------------------------------------- intensities and wavelengths


def _wavelengths(header: _Categories) -> tuple[np.ndarray, np.ndarray]:
    """Return wavelengths (Å) and weights, (channel,); a single one has weight 1. Raises FileError
    where one is not positive.
    """
    rows = [row for row in header.rows("_diffrn_radiation_wavelength") if "wavelength" in row]
    lengths = np.array([header.number(row, "wavelength") for row in rows])
    weights = np.array([header.number(row, "wt", 1.0) for row in rows])
    if np.any(lengths <= 0) or np.any(weights < 0):
        expected = "positive wavelengths and weights"
        raise FileError(header.where, expected, f"{lengths}, {weights}", "Correct the header.")
    return lengths, np.ones(1) if len(lengths) == 1 else weights


def _polarization(header: _Categories) -> tuple[float | None, list[str]]:
    """Return Kahn's K along the lab x axis, and what is to be said of it; None where it is not
    stated. The angle is between y and the normal of the plane of polarization (imgCIF dictionary).
    """
    name = "polarizn_source_ratio"
    rows = [row for row in header.rows("_diffrn_radiation") if name in row]
    if not rows:
        return None, []
    ratios = np.array([header.number(row, name) for row in rows])
    angles = np.array([header.number(row, "polarizn_source_norm", 0.0) for row in rows]) * DEG
    shares = ratios[:, None] * np.stack([np.cos(2 * angles), np.sin(2 * angles)], axis=1)
    return polarization.along_x(name, shares)


def _trusted(
    header: _Categories, intensities: Sequence[Row]
) -> tuple[float, float, tuple[float, ...]]:
    """Return the lowest and the highest trusted value of all arrays, and the values of gaps.

    All at or below an `undefined_value` that is not positive is undefined, as DIALS has it: the
    lowest trusted value is the next one in single precision.
    """
    highest = [header.number(row, "overload", np.inf) for row in intensities if "overload" in row]
    undefined = [
        header.number(row, "undefined_value") for row in intensities if "undefined_value" in row
    ]
    lowest = [value for value in undefined if value <= 0]
    gaps = {value for value in undefined if value > 0}
    low = np.nextafter(np.float32(max(lowest)), np.float32(np.inf)) if lowest else -np.inf
    return float(low), min(highest, default=np.inf), tuple(sorted(gaps))


def _pedestal(header: _Categories, intensities: Sequence[Row]) -> tuple[float, float]:
    """Return pedestal (ADU) and gain (ADU per photon) that the arrays share. Raises FileError where
    they differ, make no sense, or intensities are stored otherwise.
    """
    settings = set()
    for row in intensities:
        linearity = row.get("linearity", "linear")
        if linearity not in LINEAR:
            expected = f"linearity among {', '.join(LINEAR)}"
            raise FileError(header.where, expected, linearity, "Not supported.")
        scaling = header.number(row, "scaling", 1.0) if "scaling" in linearity else 1.0
        offset = header.number(row, "offset", 0.0) if "offset" in linearity else 0.0
        gain = header.number(row, "gain", 1.0)
        if scaling <= 0 or gain <= 0:
            found = f"gain {gain:g}, scaling {scaling:g}"
            raise FileError(header.where, "a positive gain", found, "Correct the header.")
        settings.add((0.0 - offset / scaling, gain / scaling))
    if len(settings) > 1:
        expected = "arrays of one gain"
        raise FileError(header.where, expected, sorted(settings), "Not supported.")
    return settings.pop() if settings else (0.0, 1.0)
