"""Results of the correlation in time as NeXus has them: the application definition NXxpcs.

Columns are the colours of the mask in ascending order, and so are the maps of regions: colours are
its dynamic regions, fine colours its static ones. Delays are in frames, of which one is a unit of
the shot id. What the definition demands and a correlation does not know is NaN: the energy, the
exposure, and where the beam meets the detector. `start_time` is that of the correlation.
"""

from typing import Any, NamedTuple

import h5py
import numpy as np

from spreadflow import __version__
from spreadflow.io.colours import Pixels

ONE_ARRAY = {"storage_mode": "one_array"}
"""How the fields of curves are stored."""

UNKNOWN = (
    ("incident_beam", "incident_energy", "keV"),
    ("detector_1", "count_time", "s"),
    ("detector_1", "beam_center_x", "m"),
    ("detector_1", "beam_center_y", "m"),
)
"""What the definition demands of the instrument and nobody says here: group, field, unit."""


class XpcsResults(NamedTuple):
    """What is written."""

    identifier: str
    """of the run"""
    start_time: str
    """ISO 8601"""
    frame_time_s: float
    """of a unit of the shot id"""
    pixels: Pixels
    delays: np.ndarray
    """(delay,) int64 of those with partners"""
    g2: np.ndarray
    """(delay, colour) float64; NaN where no pixel of a colour is left"""
    g2_sigma: np.ndarray
    """(delay, colour)"""
    products: np.ndarray
    """(delay, colour) mean product of earlier and later values of a pixel"""


def write(file: h5py.File, results: XpcsResults, two_time: h5py.Group | None) -> None:
    """Write results as the entry of a file. two_time: what `g2.write_two_time` wrote into the same
    file; None = nothing. Its arrays are linked, not copied.
    """
    file.attrs.update(NX_class="NXroot", default="entry")
    entry = _group(file, "entry", "NXentry", default="data")
    entry["definition"] = "NXxpcs"
    entry["entry_identifier"] = results.identifier
    entry["start_time"] = results.start_time
    data = _group(entry, "data", "NXdata", signal="g2", axes=["delay_difference", "."])
    _put(data, "g2", results.g2, **ONE_ARRAY)
    _put(data, "g2_derr", results.g2_sigma, **ONE_ARRAY)
    _put(data, "G2_unnormalized", results.products, **ONE_ARRAY)
    _put(data, "delay_difference", results.delays, units="frames", **ONE_ARRAY)
    _write_instrument(entry, results)
    process = _group(entry, "process", "NXprocess")
    process["program"] = "spreadflow correlate"
    process["version"] = __version__
    if two_time is not None:
        _write_two_time(entry, two_time)


def _group(parent: h5py.Group, name: str, nx_class: str, **attributes: Any) -> h5py.Group:
    """Return a new group of a class."""
    group = parent.create_group(name)
    group.attrs.update(NX_class=nx_class, **attributes)
    return group


def _put(group: h5py.Group, name: str, value: Any, **attributes: Any) -> None:
    """Write a field with attributes."""
    group[name] = value
    group[name].attrs.update(attributes)


def _write_instrument(entry: h5py.Group, results: XpcsResults) -> None:
    """Write the time of a frame, and which pixels are in which region."""
    instrument = _group(entry, "instrument", "NXinstrument")
    _group(instrument, "incident_beam", "NXbeam")
    detector = _group(instrument, "detector_1", "NXdetector")
    _put(detector, "frame_time", results.frame_time_s, units="s")
    for group, field, unit in UNKNOWN:
        _put(instrument[group], field, np.nan, units=unit)
    pixels = results.pixels
    masks = _group(instrument, "masks", "NXnote")
    for kind, colours in (("dynamic", pixels.colours), ("static", pixels.fine_colours)):
        image = pixels.image(colours)
        _put(masks, f"{kind}_roi_map", image, units="au")
        _put(masks, f"{kind}_q_list", np.unique(colours[colours > 0]), units="au")


def _write_two_time(entry: h5py.Group, source: h5py.Group) -> None:
    """Write C, and g2 by age as its partials."""
    group = _group(entry, "twotime", "NXdata", signal="two_time_corr_func")
    group.attrs["axes"] = [".", "frame", "frame"]
    group["frame"] = source["shot_ids"]
    group["two_time_corr_func"] = source["correlation"]
    group["two_time_corr_func"].attrs.update(
        storage_mode="one_array_q_first",
        baseline_reference=1,
        time_origin_location="upper_left",
        populated_elements="all",
    )
    partials = source["g2"][()].transpose(2, 0, 1)
    name = "g2_from_two_time_corr_func_partials"
    _put(group, name, partials, baseline_reference=1, **ONE_ARRAY)
    group["delay_difference"] = source["delays"]
    group["age"] = source["ages"]
