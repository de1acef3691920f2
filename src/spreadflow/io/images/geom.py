"""CrystFEL geometry files (.geom): panels, where their pixels lie in data and in the laboratory.

CrystFEL's frame has z along the beam, x and y in pixels from the beam, and is right-handed: it is
the laboratory frame turned by 180° about y.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io import panels
from spreadflow.io.images import geom_text
from spreadflow.io.images.geom_text import ABOUT_GEOM, GeomText, Quantity, Setting, Settings
from spreadflow.io.images.header_text import LONGEST_EDGE
from spreadflow.io.images.layout import Layout
from spreadflow.io.images.nexus_geometry import Module
from spreadflow.io.images.nexus_items import dataset, numbers, place, text
from spreadflow.io.images.unit_names import MM, unit_factor
from spreadflow.models import Detector

LAB_FROM_CRYSTFEL = np.array([-1.0, 1.0, -1.0])
"""Signs of the axes of CrystFEL's frame in the laboratory frame; likewise the other way round."""

RIGID_GROUP = "rigid_group_"
"""Beginning of settings that list the panels of a group."""

COLLECTION = "rigid_group_collection_"
"""Beginning of settings that list groups."""

FRAMES = "%"
"""Stands for the axis of frames among the dimensions, and for the name of an event in paths."""

LARGEST_STRETCH = 0.02
"""Difference from perpendicular unit vectors that `fs` and `ss` of a panel may have: lengths, and
their scalar product.
"""

SEEN_STRETCH_PX = 0.1
"""Pixels by which a corner moves when they are made so, from which on it needs a word."""

CLEN_TOLERANCE_MM = 0.05
"""Largest difference of the camera lengths of the frames of a file: about that of encoders."""

DEFAULT_DATA = "/data/data"
"""Where the data are that a file does not name."""

REFUSED = {
    "detector_shift_x": "Add it to corner_x of each panel.",
    "detector_shift_y": "Add it to corner_y of each panel.",
    "electron_voltage": "Only X-rays are understood.",
}
"""Settings that would be wrong to pass over, and what to do about them."""

OF_PANELS = (
    *("min_fs", "max_fs", "min_ss", "max_ss", "corner_x", "corner_y", "fs", "ss", "res"),
    *("clen", "coffset", "data", "no_index", "adu_per_photon", "adu_per_eV", "max_adu"),
    *("flag_lessthan", "flag_morethan", "flag_equal", "mask_edge_pixels", "rail_direction"),
    *("mask", "mask_file", "mask_good", "mask_bad", "photon_energy", "wavelength"),
)
"""Settings that are read, beside `dim0` and so on and `mask0_data` and so on."""

OF_PIXELS = (
    *("adu_per_photon", "adu_per_eV", "max_adu", *geom_text.FLAGS),
    *("photon_energy", "wavelength"),
)
"""Settings of pixels and pulses, which are read for image files without a header of their own."""

NOT_NEEDED = (
    *("badrow_direction", "integr_radius", "peak_sep", "peak_list", "peak_list_type"),
    *("peak_info_location", "clen_for_centering"),
    *("group", "rigid_group"),
)
"""Beginnings of settings that say nothing of what is read here, and need no word."""


class GeomPanel(NamedTuple):
    """A panel as the file states it."""

    name: str
    settings: Settings
    corner_px: np.ndarray
    """(2,) x and y of the outer corner of the first pixel, px from the beam"""
    axes: np.ndarray
    """(2, 3) fs and ss: from a pixel to the next, px, perpendicular unit vectors"""
    moved_px: float
    """farthest that a corner moved when they were made such"""
    pixels_per_m: float
    offset_mm: float
    """of its first pixel along the beam, beyond the camera length"""
    module: Module
    """its pixels in a frame of the data whose last axes are slow and fast"""
    data: str
    """path of the data"""
    axes_of_data: tuple[int, ...]
    """axes of the data in the order frames (none: -1), those of numbers, slow, fast"""

    @property
    def shape(self) -> tuple[int, int]:
        """(slow, fast) pixels."""
        return self.module.size[-2], self.module.size[-1]


class Geom:
    """A geometry file. Raises FileError where it makes no sense, or is not supported."""

    def __init__(self, path: Path | str, text: GeomText | None = None):
        """Read a file. text: its settings, where the file holds more than them."""
        self.path = Path(path)
        self.text = geom_text.read_text(self.path) if text is None else text
        for name, todo in REFUSED.items():
            if name in self.text.whole:
                setting = self.text.whole[name]
                raise FileError(setting.where, "no such setting", setting.text, todo)
        self.panels = [_panel(name, settings) for name, settings in self.text.panels.items()]
        self._check_alike()

    def setting(self, name: str) -> Setting | None:
        """Return a setting that all panels share: of the whole file, wherever it stands, else of
        the first panel; None where there is none.
        """
        return self.text.whole.get(name) or self.panels[0].settings.get(name)

    @property
    def axes_of_data(self) -> tuple[int, ...]:
        """Axes of the data, as of all panels: frames (none: -1), those of numbers, slow, fast."""
        return self.panels[0].axes_of_data

    @cached_property
    def remarks(self) -> list[str]:
        """What was assumed, or passed over: a sentence each."""
        worst = max(self.panels, key=lambda panel: panel.moved_px)
        remarks = []
        if worst.moved_px > SEEN_STRETCH_PX:
            remarks.append(
                f"{self.path.name}: fs and ss are not perpendicular unit vectors: made so about "
                f"the centres of panels, which moves pixels by up to {worst.moved_px:.2f} px "
                f"({worst.name})"
            )
        settings = list(self.text.whole.items())
        settings += [item for panel in self.panels for item in panel.settings.items()]
        unused = dict.fromkeys(key for key, _ in settings if not _is_used(key))
        if unused:
            names = ", ".join(unused)
            remarks.append(f"{self.path.name}: not understood, and not used: {names}")
        return remarks

    @property
    def of_pixels(self) -> list[str]:
        """The names of what it states of pixels and pulses."""
        stated = {*self.text.whole, *(key for panel in self.panels for key in panel.settings)}
        return [name for name in OF_PIXELS if name in stated]

    def layout(self, where: object, file: h5py.File | None, mask: np.ndarray | None) -> Layout:
        """Return the geometry as what stands in place of a header's.

        where: the image file, for errors. file: the same, open, where it is HDF5: camera lengths
        may be in it. mask: (panel, slow, fast) the pixels that may be used. Raises FileError where
        the detector can't be.
        """
        lengths_mm: dict[Quantity, float] = {}
        stated = []
        for panel in self.panels:
            clen = self._camera_length(panel)
            if clen not in lengths_mm:
                lengths_mm[clen] = _length_mm(where, clen, file)
            stated.append(_placed(panel, lengths_mm[clen]))
        detector = panels.detector(self.path, stated)
        detector = detector._replace(levels=panels.levels_of(self._branches()))
        return Layout(detector, [panel.module for panel in self.panels], mask, self.remarks)

    def detector(self, where: object, average_length_mm: float | None) -> Detector:
        """Return the detector where no image is at hand.

        where: of the geometry, for errors; average_length_mm: distance of the panels' corners along
        the beam in the mean over panels, for a camera length that an image file would hold. Raises
        FileError where the detector can't be, or its distance is not known.
        """
        average_offset_mm = np.mean([panel.offset_mm for panel in self.panels])
        stated = []
        for panel in self.panels:
            clen = self._camera_length(panel)
            if clen.number is None and average_length_mm is not None:
                length_mm = float(average_length_mm - average_offset_mm)
            else:
                length_mm = _length_mm(where, clen, None)
            stated.append(_placed(panel, length_mm))
        detector = panels.detector(self.path, stated)
        return detector._replace(levels=panels.levels_of(self._branches()))

    def _branches(self) -> list[list[str]]:
        """Return the rigid groups that each panel is in, the largest first: of collections whose
        groups hold all panels, or of all groups where there are none.
        """
        members = {
            key: [name.strip() for name in setting.text.split(",")]
            for key, setting in self.text.whole.items()
            if key.startswith(RIGID_GROUP)
        }
        collections = [names for key, names in members.items() if key.startswith(COLLECTION)]
        groups = {
            key.removeprefix(RIGID_GROUP): set(names)
            for key, names in members.items()
            if not key.startswith(COLLECTION)
        }
        branches: list[list[str]] = [[] for _ in self.panels]
        for names in sorted(collections or [list(groups)], key=len):
            rows = [[g for g in names if p.name in groups.get(g, ())] for p in self.panels]
            if all(len(row) == 1 for row in rows):
                for branch, row in zip(branches, rows, strict=True):
                    branch += row
        return branches

    def _camera_length(self, panel: GeomPanel) -> Quantity:
        """Return the camera length of a panel. Raises FileError where there is none."""
        return geom_text.quantity(_needed(panel.name, panel.settings, "clen"), MM)

    def _check_alike(self) -> None:
        """Raise FileError where panels differ in the order of their axes or in shape."""
        first = self.panels[0]
        for panel in self.panels:
            if panel.axes_of_data != first.axes_of_data:
                where = f"{self.path}: {panel.name}"
                raise FileError(where, f"dimensions as of {first.name}", "others", ABOUT_GEOM)
            if panel.shape != first.shape:
                expected = f"panels of equal shape, {first.shape} as {first.name}"
                raise FileError(
                    f"{self.path}: {panel.name}", expected, panel.shape, "Not supported."
                )


def _is_used(key: str) -> bool:
    """Whether a setting is read, or rightly passed over."""
    is_numbered = key.startswith("dim") or (key.startswith("mask") and "_" in key)
    return key in OF_PANELS or is_numbered or key.startswith(NOT_NEEDED)


def _needed(name: str, settings: Settings, key: str) -> Setting:
    """Return a setting of a panel. Raises FileError where it is not there."""
    if key not in settings:
        where = next(iter(settings.values())).where.partition(",")[0]
        raise FileError(f"{where}: panel {name}", f"{name}/{key}", "none", ABOUT_GEOM)
    return settings[key]


def _panel(name: str, settings: Settings) -> GeomPanel:
    """Return a panel. Raises FileError where a setting is missing or makes no sense."""
    edges = {
        key: geom_text.pixel(_needed(name, settings, key))
        for key in ("min_fs", "max_fs", "min_ss", "max_ss")
    }
    shape = (edges["max_ss"] - edges["min_ss"] + 1, edges["max_fs"] - edges["min_fs"] + 1)
    if not (1 <= shape[0] <= LONGEST_EDGE and 1 <= shape[1] <= LONGEST_EDGE):
        where = settings["max_fs"].where
        raise FileError(where, f"1 to {LONGEST_EDGE} pixels along each axis", shape, ABOUT_GEOM)
    rail = settings.get("rail_direction")
    if rail is not None and rail.text.split() != ["z"]:
        raise FileError(rail.where, "rail_direction = z", rail.text, "Not supported.")

    corner_px = np.array([geom_text.number(_needed(name, settings, f"corner_{i}")) for i in "xy"])
    stated = [_needed(name, settings, axis) for axis in ("fs", "ss")]
    axes = np.array([geom_text.vector(setting) for setting in stated])
    straight = _straightened(stated[0].where, axes)
    half_px = np.array([shape[1], shape[0]]) / 2
    centre_moved = half_px @ (axes - straight)
    signs = np.array([[1, 1], [1, -1]])
    moved_px = np.linalg.norm((signs * half_px) @ (axes - straight), axis=1).max()
    offset_mm = 0.0
    if "coffset" in settings:
        offset_mm = 1e3 * geom_text.number(settings["coffset"])
    numbers_of_axes, order = _dimensions(name, settings)
    return GeomPanel(
        name=name,
        settings=settings,
        corner_px=np.append(corner_px, 0.0) + centre_moved,
        axes=straight,
        moved_px=float(moved_px),
        pixels_per_m=geom_text.positive(_needed(name, settings, "res")),
        offset_mm=offset_mm,
        module=Module(
            (*numbers_of_axes, edges["min_ss"], edges["min_fs"]),
            (*[1] * len(numbers_of_axes), *shape),
        ),
        data=settings["data"].text if "data" in settings else DEFAULT_DATA,
        axes_of_data=order,
    )


def _straightened(where: str, axes: np.ndarray) -> np.ndarray:
    """Return the perpendicular unit vectors nearest to two axes (2, 3). Raises FileError where they
    are far from such.
    """
    products = axes @ axes.T
    if np.abs(products - np.eye(2)).max() > 2 * LARGEST_STRETCH:
        lengths = np.sqrt(np.diag(products))
        expected = "fs and ss of length 1 (px), at a right angle"
        found = f"lengths {lengths[0]:g} and {lengths[1]:g}, scalar product {products[0, 1]:g}"
        raise FileError(where, expected, found, ABOUT_GEOM)
    u, _, vt = np.linalg.svd(axes, full_matrices=False)
    return u @ vt


def _dimensions(name: str, settings: Settings) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the numbers of a panel along axes that have neither frames nor pixels, and the axes of
    the data: of frames (-1: none), of these numbers, slow, fast. Raises FileError.
    """
    stated = {key: settings[key] for key in settings if key.startswith("dim")}
    texts = ["ss", "fs"]
    if stated:
        texts = [_needed(name, settings, f"dim{number}").text for number in range(len(stated))]
    where = next(iter(stated.values())).where if stated else name
    n_frames = texts.count(FRAMES)
    if texts.count("ss") != 1 or texts.count("fs") != 1 or n_frames > 1 or len(texts) > 5:
        expected = "dimensions of which one is ss, one fs, at most one %, and the others numbers"
        raise FileError(where, expected, " ".join(texts), ABOUT_GEOM)
    others = [axis for axis, text in enumerate(texts) if text not in ("ss", "fs", FRAMES)]
    values = [geom_text.pixel(settings[f"dim{axis}"]) for axis in others]
    frames = texts.index(FRAMES) if n_frames else -1
    return tuple(values), (frames, *others, texts.index("ss"), texts.index("fs"))


def _placed(panel: GeomPanel, length_mm: float) -> panels.Panel:
    """Return a panel in the laboratory. length_mm: of the camera."""
    pixel_mm = 1e3 / panel.pixels_per_m
    corner_mm = panel.corner_px * pixel_mm + [0.0, 0.0, length_mm + panel.offset_mm]
    fast, slow = LAB_FROM_CRYSTFEL * panel.axes * pixel_mm
    return panels.Panel(LAB_FROM_CRYSTFEL * corner_mm, fast, slow, panel.shape)


def factor_of(stated: Quantity, item: h5py.Dataset, units: Mapping[str, float]) -> float:
    """Return the factor of the unit of a dataset that a quantity names: of the unit beside its
    path, else of its attribute `units`; 1 where neither is understood.
    """
    return unit_factor(stated.unit or text(item.attrs.get("units")), units) or 1.0


def _length_mm(where: object, clen: Quantity, file: h5py.File | None) -> float:
    """Return a camera length. A number without unit is in m, a dataset without unit holds mm, as
    CrystFEL has both. Raises FileError where it is not there, or differs between frames.
    """
    if clen.number is not None:
        return clen.number * (unit_factor(clen.unit, MM) or MM["m"])
    item = None if file is None else dataset(file, clen.dataset)
    if item is None:
        expected = f"the camera length that {clen.where} names, {clen.dataset}"
        raise FileError(where, expected, "none", "State it as a number: clen = 0.12 m.")
    lengths_mm = numbers(item).astype(float).ravel() * factor_of(clen, item, MM)
    is_sound = len(lengths_mm) > 0 and np.isfinite(lengths_mm).all()
    if not is_sound or np.ptp(lengths_mm) > CLEN_TOLERANCE_MM:
        expected = f"finite camera lengths that differ by no more than {CLEN_TOLERANCE_MM} mm"
        found = f"{lengths_mm[:5]} mm"
        raise FileError(place(item), expected, found, "State it as a number: clen = 0.12 m.")
    return float(np.median(lengths_mm))
