"""NXmx that no reader could understand: edits of a small file, and the words that refuse it."""

from pathlib import Path

import h5py
import numpy as np

from nexus_dialects import dectris_master, default_depends, external_frames
from nexus_file import (
    BEAM,
    CHANNELS,
    DATA,
    MEAN,
    MODULE,
    N_FRAMES,
    SENSOR,
    SHAPE,
    STEPS,
    no_channels,
    put,
    spectra,
)


def _no_frames_that_fit(f: h5py.File) -> None:
    put(f, DATA, np.zeros((N_FRAMES, 16, 19), np.int32))


def _overlapping_modules(f: h5py.File) -> None:
    f[SENSOR].copy("module", "module_b")


def _negative_origin(f: h5py.File) -> None:
    f[f"{MODULE}/data_origin"][...] = [-1, 0]


def _half_sizes(f: h5py.File) -> None:
    put(f, f"{MODULE}/data_size", [16.5, 20.0])


def _texts_for_pixels(f: h5py.File) -> None:
    put(f, DATA, np.full((N_FRAMES, *SHAPE), b"x"))


def _skewed(f: h5py.File) -> None:
    f[f"{MODULE}/slow_pixel_direction"].attrs["vector"] = [0.1, -1.0, 0]


def _nan_in_the_chain(f: h5py.File) -> None:
    f[f"{STEPS}/AXIS_RAIL"][...] = np.nan


def _infinite_offset(f: h5py.File) -> None:
    f[f"{MODULE}/module_offset"].attrs["offset"] = [np.inf, 0, 0]


def _no_vector(f: h5py.File) -> None:
    f[f"{MODULE}/fast_pixel_direction"].attrs["vector"] = [0.0, 0, 0]


def _no_depends_on(f: h5py.File) -> None:
    default_depends(f)
    del f[f"{SENSOR}/depends_on"]


def _moving_detector(f: h5py.File) -> None:
    put(f, f"{STEPS}/AXIS_RAIL", [120.0, 121.0])


def _oblong_pixels(f: h5py.File) -> None:
    f[f"{MODULE}/slow_pixel_direction"][...] = 0.3


def _pixels_without_unit(f: h5py.File) -> None:
    del f[f"{MODULE}/slow_pixel_direction"].attrs["units"]


def _unknown_step(f: h5py.File) -> None:
    f[f"{STEPS}/AXIS_RAIL"].attrs["transformation_type"] = "shear"


def _no_data_file(f: h5py.File) -> None:
    dectris_master(f)
    f["entry/data/data_000002"].file.flush()
    Path(f.filename).with_name(f"{Path(f.filename).stem}_data_000001.h5").unlink()


def _no_external_frames(f: h5py.File) -> None:
    external_frames(f)
    Path(f.filename).with_name(f"{Path(f.filename).stem}_frames.h5").unlink()


def _two_saturations(f: h5py.File) -> None:
    put(f, f"{SENSOR}/saturation_value", [1000, 2000])


def _saturation_is_nan(f: h5py.File) -> None:
    put(f, f"{SENSOR}/saturation_value", np.nan)


def _range_upside_down(f: h5py.File) -> None:
    put(f, f"{SENSOR}/underload_value", 2000)


def _scaling_is_zero(f: h5py.File) -> None:
    put(f, "entry/data/data_scaling_factor", 0.0)


def _offsets_of_three_frames(f: h5py.File) -> None:
    put(f, "entry/data/data_offset", [1.0, 2.0, 3.0])


def _mask_of_another_shape(f: h5py.File) -> None:
    put(f, f"{SENSOR}/pixel_mask", np.zeros((16, 21), np.uint32))


def _frames_no_detector_has(f: h5py.File) -> None:
    del f[DATA]
    f.create_dataset(DATA, (N_FRAMES, 2**20, 2**20), "i4", chunks=(1, 1024, 1024))


REFUSED = {
    "no frames that fit": (_no_frames_that_fit, r"modules of \[\(16, 20\)\].*\(2, 16, 19\)"),
    "overlapping modules": (_overlapping_modules, "hold modules"),
    "negative origin": (_negative_origin, "data_origin"),
    "half sizes": (_half_sizes, "data_size: expected 2 to 4 whole numbers"),
    "texts for pixels": (_texts_for_pixels, "no data"),
    "skewed axes": (_skewed, "perpendicular axes .* 84.289°"),
    "nan in the chain": (_nan_in_the_chain, "AXIS_RAIL: expected a finite number"),
    "infinite offset": (_infinite_offset, "module_offset: expected three finite numbers"),
    "no vector": (_no_vector, "a vector with a length"),
    "no depends_on": (_no_depends_on, "downstream .* chain of axes"),
    "moving detector": (_moving_detector, "AXIS_RAIL: expected one value for all frames"),
    "oblong pixels": (_oblong_pixels, "square pixels"),
    "pixels without unit": (_pixels_without_unit, "slow_pixel_direction: expected units"),
    "unknown step": (_unknown_step, "a translation or rotation; found 'shear'"),
    "no data file": (_no_data_file, "file of data_000001; found no file .*_data_000001.h5"),
    "no external frames": (_no_external_frames, "found no file .*_frames.h5"),
    "two saturations": (_two_saturations, "saturation_value: expected a single finite number"),
    "saturation is nan": (_saturation_is_nan, "saturation_value: expected a single finite"),
    "range upside down": (_range_upside_down, "underload_value below saturation_value"),
    "scaling is zero": (_scaling_is_zero, "positive scaling factor"),
    "offsets of three frames": (_offsets_of_three_frames, "data_offset: expected one number, 2"),
    "mask of another shape": (_mask_of_another_shape, "pixel_mask: expected shape"),
    "frames no detector has": (_frames_no_detector_has, "It may be damaged"),
}
"""Files that are refused, and the words of it."""


def _unit_of_nothing(f: h5py.File) -> None:
    no_channels(f)
    f[MEAN].attrs["units"] = "furlong"


def _no_unit_and_unlikely(f: h5py.File) -> None:
    no_channels(f)
    put(f, MEAN, f[MEAN][()] * 1e-10)
    del f[MEAN].attrs["units"]


def _no_wavelength(f: h5py.File) -> None:
    no_channels(f)
    del f[MEAN]


def _weights_of_fewer_channels(f: h5py.File) -> None:
    for end in ("_weights", "_weight"):
        put(f, CHANNELS + end, spectra()[:, :4])


def _weights_of_three_shots(f: h5py.File) -> None:
    for end in ("_weights", "_weight"):
        put(f, CHANNELS + end, np.ones((3, 5)))


def _channels_without_weights(f: h5py.File) -> None:
    no_channels(f)
    put(f, MEAN, np.linspace(1.7, 1.8, 5))


def _circle_of_variants(f: h5py.File) -> None:
    no_channels(f)
    f[f"{BEAM}/other"] = np.linspace(1.7, 1.8, 5)
    f[f"{BEAM}/other"].attrs["variant"] = "incident_wavelength"
    put(f, MEAN, np.linspace(1.7, 1.8, 5), variant="other")


BAD_SPECTRA = {
    "unit of nothing": (_unit_of_nothing, "incident_wavelength: expected units.*'furlong'"),
    "no unit and unlikely": (_no_unit_and_unlikely, "expected units.*found none"),
    "no wavelength": (_no_wavelength, "incident_wavelength or incident_energy.*none in /entry"),
    "weights of fewer channels": (_weights_of_fewer_channels, "expected 5 weights; found 4"),
    "weights of three shots": (_weights_of_three_shots, "or 2 rows of channels"),
    "channels without weights": (_channels_without_weights, "Spectra need weights"),
    "circle of variants": (_circle_of_variants, "Spectra need weights"),
}
"""Files whose shots have no spectrum, and the words of it."""
