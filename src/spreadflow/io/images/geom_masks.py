"""Which pixels a CrystFEL geometry file leaves out: panels, their edges, regions, masks of bits."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images import geom_text
from spreadflow.io.images.geom import FRAMES, Geom, GeomPanel
from spreadflow.io.images.geom_frames import Frames, ordered
from spreadflow.io.images.geom_text import ABOUT_GEOM, Settings
from spreadflow.io.images.layout import panels_of
from spreadflow.io.images.nexus_items import BROKEN, dataset, numbers, place

N_MASKS = 8
"""Masks that a file may name: mask0_data to mask7_data."""

LABORATORY = ("min_x", "max_x", "min_y", "max_y")
"""Edges of a region in the laboratory, px from the beam, both inclusive."""

OF_DATA = ("min_fs", "max_fs", "min_ss", "max_ss")
"""Edges of a region in the data, both inclusive."""


class BitMask(NamedTuple):
    """A mask of a panel: a field of bits for each pixel."""

    where: str
    """for errors"""
    data: str
    """path of the dataset"""
    file: str
    """the file that holds it, relative to that of the geometry; empty for that of the images"""
    good: int
    """bits that are all set in good pixels"""
    bad: int
    """bits of which none is set in good pixels"""


class Masks:
    """The pixels that may be used. Raises FileError where a mask is missing or of another shape.

    frames: of the image file, for the masks in it; None where its own reader has them.
    """

    def __init__(self, geom: Geom, frames: Frames | None):
        self._geom = geom
        self._frames = frames
        self._of_panels = [list(_bit_masks(geom, panel)) for panel in geom.panels]
        self.remarks = _without_bits(geom, self._of_panels)
        self.good = plain_mask(geom)
        """(panel, slow, fast) in all frames"""
        self._varies: set[str] = set()
        """paths of masks that each frame has its own of"""
        known: dict[tuple[str, str], np.ndarray | None] = {}
        for row, masks in enumerate(self._of_panels):
            for mask in masks:
                key = (mask.file, mask.data)
                if key not in known:
                    known[key] = self._read(mask)
                values = known[key]
                if values is not None:
                    self.good[row] &= self._of_panel(row, values, mask)

    def of_frame(self, number: int) -> np.ndarray | None:
        """Return the pixels (panel, slow, fast) that may be used in a frame, by masks of its own;
        None where there are none. Raises FileError.
        """
        if not self._varies or self._frames is None:
            return None
        good = np.ones(self.good.shape, bool)
        event = self._frames.events[number]
        known: dict[str, np.ndarray] = {}
        for row, masks in enumerate(self._of_panels):
            for mask in masks:
                if mask.file or mask.data not in self._varies:
                    continue
                if mask.data not in known:
                    item = self._frames.item(mask.data, event)
                    known[mask.data] = self._frames.values(item, event)
                good[row] &= self._of_panel(row, known[mask.data], mask)
        return good

    def _of_panel(self, row: int, values: np.ndarray, mask: BitMask) -> np.ndarray:
        """Return the good pixels of a panel (slow, fast). values: of all, in the order of axes of
        a frame. Raises FileError where the panel lies beyond them, or they are no bits.
        """
        panel = self._geom.panels[row]
        module = panel.module.of_one_panel(values.shape, 1)
        if not module.fits(values.shape):
            expected = f"a mask that holds panel {panel.name}, pixels {panel.module}"
            raise FileError(mask.where, expected, f"shape {values.shape}", ABOUT_GEOM)
        (stored,) = panels_of(values, [module], panel.shape)
        if stored.dtype.kind == "f":
            stored = np.where(np.isfinite(stored), stored, -1).astype(np.int64)
        fields = stored.astype(np.uint64)
        good, bad = np.uint64(mask.good), np.uint64(mask.bad)
        return ((fields & good) == good) & ((fields & bad) == 0)

    def _read(self, mask: BitMask) -> np.ndarray | None:
        """Return the fields of bits of a mask that all frames share; None for one of each frame,
        and for those that the reader of the images has. Raises FileError.
        """
        if not mask.file:
            return None if self._frames is None else self._in_images(mask, self._frames)
        path = self._geom.path.parent / mask.file
        try:
            with h5py.File(path, "r", locking=False) as file:
                return self._shared(mask, dataset(file, mask.data))
        except BROKEN as error:
            expected = f"the mask of {mask.where}, an HDF5 file"
            raise FileError(path, expected, error, "Put it there, or correct its name.") from None

    def _in_images(self, mask: BitMask, frames: Frames) -> np.ndarray | None:
        """Return what `_read` does for a mask in the file of the images. Raises FileError."""
        item = frames.item(mask.data, frames.events[0])
        if FRAMES in mask.data or frames.has_frames(item):
            self._varies.add(mask.data)
            return None
        return self._shared(mask, item)

    def _shared(self, mask: BitMask, item: h5py.Dataset | None) -> np.ndarray:
        """Return the fields of bits in a dataset without an axis of frames, or with one of a single
        frame. Raises FileError.
        """
        if item is None:
            raise FileError(mask.where, f"a dataset {mask.data}", "none", ABOUT_GEOM)
        frames, *others = self._geom.axes_of_data
        values = numbers(item)
        if values.ndim == len(others) + 1 and values.shape[max(frames, 0)] == 1:
            values = values.take(0, axis=max(frames, 0))
        if values.ndim != len(others):
            expected = f"a mask with the {len(others)} axes of a frame"
            raise FileError(place(item), expected, f"shape {item.shape}", ABOUT_GEOM)
        return ordered(values, self._geom.axes_of_data)


def mask_files(geom: Geom) -> list[Path]:
    """Return the files of masks that a geometry file names."""
    names = [mask.file for panel in geom.panels for mask in _bit_masks(geom, panel)]
    return [geom.path.parent / name for name in dict.fromkeys(names) if name]


def _bit_masks(geom: Geom, panel: GeomPanel) -> Iterator[BitMask]:
    """Yield the masks of a panel. Bits may be stated after it, for all. Raises FileError."""
    settings = geom.text.whole | dict(panel.settings)
    names = [("mask", "mask_file", "mask_good", "mask_bad")]
    names += [
        (f"mask{n}_data", f"mask{n}_file", f"mask{n}_goodbits", f"mask{n}_badbits")
        for n in range(N_MASKS)
    ]
    for data, file, good, bad in names:
        if data not in panel.settings:
            continue
        yield BitMask(
            where=settings[data].where,
            data=settings[data].text,
            file=settings[file].text if file in settings else "",
            good=geom_text.bits(settings[good]) if good in settings else 0,
            bad=geom_text.bits(settings[bad]) if bad in settings else 0,
        )


def _without_bits(geom: Geom, masks_of_panels: list[list[BitMask]]) -> list[str]:
    """Return a sentence about masks that mask nothing, as no bits are stated."""
    masks = [mask for masks in masks_of_panels for mask in masks]
    data = dict.fromkeys(mask.data for mask in masks if not mask.good and not mask.bad)
    return [
        f"{geom.path.name}: mask {path} masks nothing: neither good nor bad bits are stated"
        for path in data
    ]


# ---------------------------------------------------------------- panels, edges and regions


def plain_mask(geom: Geom) -> np.ndarray:
    """Return the pixels (panel, slow, fast) that remain but for masks of bits. Raises FileError."""
    good = np.ones((len(geom.panels), *geom.panels[0].shape), bool)
    for row, panel in enumerate(geom.panels):
        settings = panel.settings
        if "no_index" in settings and geom_text.number(settings["no_index"]):
            good[row] = False
        if "mask_edge_pixels" in settings:
            n = geom_text.pixel(settings["mask_edge_pixels"])
            inner = good[row, n : max(panel.shape[0] - n, n), n : max(panel.shape[1] - n, n)].copy()
            good[row] = False
            good[row, n : n + inner.shape[0], n : n + inner.shape[1]] = inner
    names = {panel.name: row for row, panel in enumerate(geom.panels)}
    for name, region in geom.text.bad.items():
        rows = _rows_of_region(geom, name, region, names)
        for row in rows:
            good[row] &= ~_is_in_region(geom, name, region, geom.panels[row])
    return good


def _rows_of_region(geom: Geom, name: str, region: Settings, names: dict[str, int]) -> list[int]:
    """Return the panels that a region may touch. Raises FileError for one that is not there."""
    if "panel" not in region:
        return list(range(len(geom.panels)))
    setting = region["panel"]
    if setting.text not in names:
        expected = f"the panel of {name}: one of {', '.join(list(names)[:5])}, ..."
        raise FileError(setting.where, expected, setting.text, ABOUT_GEOM)
    return [names[setting.text]]


def _is_in_region(geom: Geom, name: str, region: Settings, panel: GeomPanel) -> np.ndarray:
    """Return which pixels (slow, fast) of a panel have their centre in a region. Raises FileError
    where its edges are missing or turned.
    """
    keys = LABORATORY if any(key in region for key in LABORATORY) else OF_DATA
    missing = [key for key in keys if key not in region]
    if missing or any(key in region for key in (*LABORATORY, *OF_DATA) if key not in keys):
        expected = f"{name} with {', '.join(LABORATORY)}, or with {', '.join(OF_DATA)}"
        found = f"no {missing[0]}" if missing else "some of both"
        raise FileError(geom.path, expected, found, ABOUT_GEOM)
    low_a, high_a, low_b, high_b = (geom_text.number(region[key]) for key in keys)
    if low_a > high_a or low_b > high_b:
        found = f"{low_a:g} to {high_a:g} and {low_b:g} to {high_b:g}"
        raise FileError(region[keys[0]].where, "ends from low to high", found, ABOUT_GEOM)
    slow, fast = np.ogrid[: panel.shape[0], : panel.shape[1]]
    if keys == OF_DATA:
        first_slow, first_fast = panel.module.corner[-2:]
        a, b = fast + first_fast, slow + first_slow
    else:
        (fs, ss), corner = panel.axes, panel.corner_px
        a, b = (corner[i] + (fast + 0.5) * fs[i] + (slow + 0.5) * ss[i] for i in (0, 1))
    return (low_a <= a) & (a <= high_a) & (low_b <= b) & (b <= high_b)
