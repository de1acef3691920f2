"""CrystFEL streams as shots with lattices and intensities.

CrystFEL's frame is the laboratory frame turned by 180° about y; its reciprocal axes are in nm⁻¹.
Places (fs, ss) are in the data block, from which a panel starts at (min_fs, min_ss). Intensities
are sums of ADU that nothing has been divided by: neither Lorentz nor polarization factor, nor
partiality. The geometry file says how many ADU a photon makes.
"""

import re
from pathlib import Path

import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images import geom_text
from spreadflow.io.images.geom import LAB_FROM_CRYSTFEL, Geom
from spreadflow.io.images.geom_values import Values
from spreadflow.io.lattices.indexed import IndexedLattice, IndexedReflections
from spreadflow.io.lattices.stated import OwnColumns, ShotName, StatedLattice, StatedShot
from spreadflow.io.lattices.stream_text import (
    ABOUT_STREAM,
    ChunkText,
    CrystalText,
    KeyLines,
    StreamText,
    TextTable,
)
from spreadflow.models import Spots
from spreadflow.physics.spectrum import FWHM
from spreadflow.units import wavelength

OWN = "spreadflow/"
"""What lines begin with that hold columns of ours."""

PER_ANGSTROM = 0.1
"""Å⁻¹ in a nm⁻¹."""

NARROWEST = 1e-6
"""Relative bandwidth below which CrystFEL was told of none: it then writes 1e-8."""

PEAK_VARIANCE_PX2 = 0.1
"""Variance of the places of peaks, which streams do not state: those of peaks of a few pixels."""

NUMBER_OF_FRAME = re.compile(r"//(\d+)")
"""The event of a frame along the one axis of frames."""

FIRST_FRAME = ("", "//", "(null)", "(none)")
"""Events of files with a single image."""

HALL = {letter: f"{letter} 1" for letter in "PABCIF"} | {"H": "R 1", "R": "P 1"}
"""Centring of CrystFEL → Hall symbol of the group that has nothing else. H is rhombohedral on
hexagonal axes, R on its own.
"""

OF_TABLES = {
    *("h", "k", "l", "I", "sigma(I)", "peak", "background", "fs/px", "ss/px", "panel", "phase"),
    *("counts", "(1/d)/nm^-1", "Intensity", "Panel"),
}
"""Columns of CrystFEL's own tables."""


class Stream:
    """A stream: `StatedShots`. Raises FileError where it is none, or has no geometry."""

    def __init__(
        self,
        path: Path | str,
        geometry: Path | None = None,
        adu_per_photon: float | None = None,
    ):
        """Open a stream, and find its shots. geometry: in place of that in its header;
        adu_per_photon: in place of what the geometry states.
        """
        self.path = Path(path)
        self._text = StreamText(self.path)
        self._geom = _geometry(self._text, geometry)
        places = self._text.places()
        self._places = places.chunks
        self.torn = places.torn
        self.names = [
            ShotName(place.image, *_frame(place.event), place.n_crystals) for place in places.chunks
        ]
        if not self._places:
            found = "one that has no end" if self.torn else "none"
            raise FileError(self.path, "chunks of shots", found, ABOUT_STREAM)
        first = self._text.chunk(self._places[0]).lines
        self.detector = self._geom.detector(self.path, _length_mm(first))
        self._panels = {panel.name: row for row, panel in enumerate(self._geom.panels)}
        self._first_px = np.array([panel.module.corner[:-3:-1] for panel in self._geom.panels])
        energy_ev = first.number("photon_energy_eV")
        values = Values(self._geom, energy_ev, np.dtype(np.float64))
        self._gains = np.full(len(self._panels), adu_per_photon or np.nan)
        if adu_per_photon is None:
            self._gains = values.gains
        self._saturation = values.highest
        self.remarks = values.remarks if adu_per_photon is None else []

    def read(self, number: int) -> StatedShot:
        """Return a shot. Raises FileError for numbers that are none, by their line."""
        place = self._places[number]
        chunk = self._text.chunk(place)
        energy_ev = chunk.lines.number("photon_energy_eV") or 0.0
        lattices = [
            self._lattice(number, crystal, max(energy_ev, 0.0)) for crystal in chunk.crystals
        ]
        spots, own_spots = self._spots(chunk)
        return StatedShot(
            energy_ev=energy_ev,
            bandwidth=_bandwidth(chunk.lines),
            is_hit=chunk.lines.text("hit") != "0",
            spots=spots,
            lattices=lattices,
            own=_own_values(chunk.lines),
            own_spots=own_spots,
        )

    def _spots(self, chunk: ChunkText) -> tuple[Spots | None, OwnColumns]:
        """Return the peaks of a chunk, and columns of ours."""
        rows = chunk.peaks
        if rows is None or not rows.n_rows:
            return None, {}
        panel = self._numbers_of_panels(rows, "Panel")
        fast, slow = self._places_on_panels(rows, panel)
        photons = rows.finite("Intensity") / self._gains[panel]
        spots = Spots(
            panel=panel,
            fast=fast,
            slow=slow,
            variance_fast=np.full(len(fast), PEAK_VARIANCE_PX2),
            variance_slow=np.full(len(fast), PEAK_VARIANCE_PX2),
            intensity=photons,
            sigma=np.sqrt(np.maximum(photons, 1.0)),
            n_pixels=np.zeros(len(fast), np.int32),
        )
        return spots, _own_columns(rows)

    def _lattice(self, number: int, crystal: CrystalText, energy_ev: float) -> StatedLattice:
        """Return a lattice of a shot. Raises FileError where it has no axes."""
        name = self.names[number]
        lines = crystal.lines
        axes = [lines.numbers(f"{axis}star", 3) for axis in "abc"]
        if any(axis is None for axis in axes):
            where = f"{self.path}, line {crystal.line}"
            raise FileError(where, "astar, bstar and cstar of the crystal", "fewer", ABOUT_STREAM)
        A = PER_ANGSTROM * LAB_FROM_CRYSTFEL[:, None] * np.array(axes).T
        where = f"{self.path}, line {crystal.line}"
        centring = lines.text("centering") or "P"
        if centring not in HALL:
            expected = f"one of the centrings {', '.join(HALL)}"
            raise FileError(where, expected, repr(centring), ABOUT_STREAM)
        limit = lines.number("diffraction_resolution_limit")
        reflections, is_saturated = self._reflections(crystal)
        return StatedLattice(
            line=crystal.line,
            lattice=IndexedLattice(
                identifier="",
                image=Path(name.image),
                frame=name.frame,
                A=A,
                hall=HALL[centring],
                wavelength=float(wavelength(energy_ev)) if energy_ev > 0 else np.inf,
                detector=self.detector,
                reflections=reflections,
                event=name.event,
            ),
            is_saturated=is_saturated,
            d_min=1.0 / (PER_ANGSTROM * limit) if limit is not None and limit > 0 else None,
            own=_own_values(lines),
            own_reflections={}
            if crystal.reflections is None
            else _own_columns(crystal.reflections),
        )

    def _reflections(self, crystal: CrystalText) -> tuple[IndexedReflections, np.ndarray]:
        """Return the reflections of a crystal in photons, and which of them are saturated."""
        rows = crystal.reflections
        if rows is None or not rows.n_rows:
            nothing = np.empty(0)
            none = IndexedReflections(np.empty((0, 3), np.int32), nothing.astype(np.int32))
            none = none._replace(fast=nothing, slow=nothing, intensity=nothing, sigma=nothing)
            return none, nothing.astype(bool)
        hkl = np.stack([rows.finite(name) for name in "hkl"], axis=1)
        panel = self._numbers_of_panels(rows, "panel")
        fast, slow = self._places_on_panels(rows, panel)
        gain = self._gains[panel]
        background = None
        is_saturated = np.zeros(rows.n_rows, bool)
        if "background" in rows.columns:
            background = rows.finite("background") / gain
        if "peak" in rows.columns:
            is_saturated = rows.finite("peak") > self._saturation[panel]
        reflections = IndexedReflections(
            hkl=hkl.astype(np.int32),
            panel=panel,
            fast=fast,
            slow=slow,
            intensity=rows.finite("I") / gain,
            sigma=rows.finite("sigma(I)") / gain,
            background=background,
        )
        return reflections, is_saturated

    def _numbers_of_panels(self, rows: TextTable, name: str) -> np.ndarray:
        """Return the numbers of the panels (row,) of the rows of a table. Raises FileError."""
        if name not in rows.columns:
            return self._panels_by_place(rows)
        names, number = np.unique(rows.columns[name], return_inverse=True)
        panels = [self._panels.get(one.decode("latin-1"), -1) for one in names.tolist()]
        panel = np.array(panels, np.int32)[number]
        if (panel < 0).any():
            row = int(np.argmax(panel < 0))
            where = f"{self.path}, line {rows.line + row}"
            found = repr(rows.columns[name][row].decode("latin-1"))
            raise FileError(where, "a panel of the geometry file", found, ABOUT_STREAM)
        return panel

    def _panels_by_place(self, rows: TextTable) -> np.ndarray:
        """Return the numbers of the panels (row,) in whose part of the data places lie, for formats
        that do not name them. Raises FileError where there is not exactly one.
        """
        place = np.stack([rows.finite("fs/px"), rows.finite("ss/px")], axis=1)[:, None]
        end_px = self._first_px + self.detector.shape[::-1]
        is_within = ((place >= self._first_px) & (place < end_px)).all(axis=-1)
        n_panels = is_within.sum(axis=1)
        if (n_panels != 1).any():
            row = int(np.argmax(n_panels != 1))
            where = f"{self.path}, line {rows.line + row}"
            expected = f"a place in one panel, as format 2.{self._text.minor} names none"
            todo = (
                "Give the geometry file that the stream was made with: runs.RUN.lattices.geometry."
            )
            raise FileError(where, expected, f"{place[row, 0]} in {n_panels[row]} panels", todo)
        return is_within.argmax(axis=1).astype(np.int32)

    def _places_on_panels(
        self, rows: TextTable, panel: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return where on their panels the rows of a table are, (row,) fast and slow, px."""
        first = self._first_px[panel]
        return rows.finite("fs/px") - first[:, 0], rows.finite("ss/px") - first[:, 1]


def _geometry(text: StreamText, geometry: Path | None) -> Geom:
    """Return the geometry of a stream. Raises FileError where there is none."""
    if geometry is not None:
        return Geom(geometry)
    if text.geometry is None:
        todo = "Name the geometry file that it was made with: runs.RUN.lattices.geometry."
        raise FileError(text.path, "a geometry file in its header", "none", todo)
    return Geom(text.path, geom_text.parsed(text.path, text.geometry, text.geometry_line))


def _frame(event: str) -> tuple[int, str]:
    """Return number and name of the frame that an event is; the number of one with a name is -1."""
    if event in FIRST_FRAME:
        return 0, ""
    match = NUMBER_OF_FRAME.fullmatch(event)
    return (int(match[1]), "") if match else (-1, event)


def _length_mm(lines: KeyLines) -> float | None:
    """Return the mean distance of the panels along the beam that a chunk states."""
    length_m = lines.number("average_camera_length")
    return None if length_m is None else 1e3 * length_m


def _bandwidth(lines: KeyLines) -> float | None:
    """Return the relative full width at half maximum that a chunk states; CrystFEL takes what is
    stated for the standard deviation of a Gaussian.
    """
    sigma = lines.number("beam_bandwidth")
    return FWHM * sigma if sigma is not None and sigma > NARROWEST else None


def _own_values(lines: KeyLines) -> OwnColumns:
    """Return the columns of ours among lines, one row each."""
    names = [key for key in lines.values if key.startswith(OWN)]
    return {
        key.removeprefix(OWN): np.array([float(word) for word in lines.text(key).split()])[None]
        for key in names
    }


def _own_columns(rows: TextTable) -> OwnColumns:
    """Return the columns of ours in a table; those of a vector are `name_0` and so on."""
    own: dict[str, np.ndarray] = {}
    vectors: dict[str, list[np.ndarray]] = {}
    for name in rows.columns:
        stem, _, number = name.rpartition("_")
        if number.isdigit():
            vectors.setdefault(stem, []).append(rows.numbers(name))
        elif name not in OF_TABLES:
            own[name] = rows.numbers(name)
    return own | {name: np.stack(columns, axis=1) for name, columns in vectors.items()}
