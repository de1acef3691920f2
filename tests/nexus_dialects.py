"""NXmx as others write it: each dialect changes one thing in a small file, and says what must come
out where that is not what the unchanged file has.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import nexus_wavelengths
from nexus_file import (
    ADU_PER_PHOTON,
    CHANNELS,
    DATA,
    DETECTOR,
    ENERGIES_EV,
    MEAN,
    MODULE,
    N_FRAMES,
    OFFSET_ADU,
    SENSOR,
    SHAPE,
    STEPS,
    images,
    mask,
    no_channels,
    put,
    spectra,
)

# ---------------------------------------------------------------- frames


def of_type(name: str) -> Callable[[h5py.File], None]:
    """Return the dialect that stores frames in a type."""

    def edit(f: h5py.File) -> None:
        put(f, DATA, f[DATA][()].astype(name))

    return edit


def size_fast_slow(f: h5py.File) -> dict[str, list[str]]:
    f[f"{MODULE}/data_size"][...] = SHAPE[::-1]
    return {"remarks": ["data_size is in the order fast, slow"]}


def three_sizes(f: h5py.File) -> None:
    put(f, f"{MODULE}/data_origin", [0, 0, 0])
    put(f, f"{MODULE}/data_size", [1, *SHAPE])


def sizes_with_frames(f: h5py.File) -> None:
    put(f, f"{MODULE}/data_origin", [0, 0, 0])
    put(f, f"{MODULE}/data_size", [N_FRAMES, *SHAPE])


def sizes_are_floats(f: h5py.File) -> None:
    put(f, f"{MODULE}/data_size", np.array(SHAPE, float))


def panel_axis(f: h5py.File) -> None:
    put(f, DATA, f[DATA][()][:, None])
    put(f, f"{SENSOR}/pixel_mask", f[f"{SENSOR}/pixel_mask"][()][None])


def part_of_a_frame(f: h5py.File) -> None:
    """The module is a corner of a larger frame."""
    large = np.zeros((N_FRAMES, 20, 30), np.int32)
    large[:, 2:18, 5:25] = f[DATA][()]
    bad = np.ones(large.shape[1:], np.uint32)
    bad[2:18, 5:25] = f[f"{SENSOR}/pixel_mask"][()]
    put(f, DATA, large)
    put(f, f"{SENSOR}/pixel_mask", bad)
    f[f"{MODULE}/data_origin"][...] = [2, 5]


def two_modules(f: h5py.File) -> dict[str, Any]:
    """The frame is cut into a left and a right half."""
    sensor = f[SENSOR]
    sensor.copy("module", "module_b")
    for name, corner in (("module", 0), ("module_b", 10)):
        sensor[name]["data_origin"][...] = [0, corner]
        sensor[name]["data_size"][...] = [16, 10]
    sensor["module_b/module_offset"].attrs["offset"] -= [10 * DETECTOR.pixel_mm, 0, 0]
    for axis in ("fast", "slow"):
        sensor[f"module_b/{axis}_pixel_direction"].attrs["depends_on"] = "module_offset"
    right = DETECTOR.origin_mm + np.array([10 * DETECTOR.pixel_mm, 0, 0])
    return {
        "photons": halves((images() - OFFSET_ADU) / ADU_PER_PHOTON),
        "good": halves(np.repeat(mask()[None], N_FRAMES, axis=0)),
        "detector": DETECTOR._replace(
            origin_mm=np.concatenate([DETECTOR.origin_mm, right]),
            fast=np.tile(DETECTOR.fast, (2, 1)),
            slow=np.tile(DETECTOR.slow, (2, 1)),
            shape=(16, 10),
        ),
    }


def panels_along_an_axis(f: h5py.File) -> dict[str, Any]:
    """The same halves, one behind the other along an axis of panels."""
    content = two_modules(f)
    put(f, DATA, halves(f[DATA][()][:, None]))
    put(f, f"{SENSOR}/pixel_mask", halves(f[f"{SENSOR}/pixel_mask"][()][None, None])[0])
    for number, name in enumerate(("module", "module_b")):
        put(f, f"{SENSOR}/{name}/data_origin", [number, 0, 0])
        put(f, f"{SENSOR}/{name}/data_size", [1, 16, 10])
    return content


def halves(frames: np.ndarray) -> np.ndarray:
    """Return the left and the right half of frames (n, 1, slow, fast) as two panels."""
    return np.concatenate([frames[..., :10], frames[..., 10:]], axis=1)


def one_frame(f: h5py.File) -> dict[str, Any]:
    """One image without an axis of frames; the spectrum as NXmx has it for one."""
    put(f, DATA, f[DATA][0])
    channels, weights = f[CHANNELS][()], f[f"{CHANNELS}_weights"][0]
    no_channels(f)
    put(f, MEAN, channels)
    f[f"{MEAN}_weights"] = weights
    return {
        "photons": (images()[:1] - OFFSET_ADU) / ADU_PER_PHOTON,
        "good": mask()[None],
        "energies_ev": ENERGIES_EV[None],
        "spectra": spectra()[:1],
    }


def dectris_master(f: h5py.File) -> None:
    """The frames are in data files that links lead to; one more was never written."""
    here = Path(f.filename)
    frames = f[DATA][()]
    del f[DATA], f["entry/data"].attrs["signal"]
    for number in range(N_FRAMES + 1):
        name = f"{here.stem}_data_{number + 1:06d}.h5"
        if number < N_FRAMES:
            with h5py.File(here.with_name(name), "w") as other:
                other["entry/data/data"] = frames[number : number + 1]
        f[f"entry/data/data_{number + 1:06d}"] = h5py.ExternalLink(name, "/entry/data/data")


def dectris_signal(f: h5py.File) -> None:
    """As above, and the first data file is named as the signal."""
    dectris_master(f)
    f["entry/data"].attrs["signal"] = "data_000001"


def dectris_of_old(f: h5py.File) -> dict[str, list[str]]:
    """Without modules and definition: distance and beam centre, in metres and pixels."""
    dectris_master(f)
    specific = f.create_group(f"{SENSOR}/detectorSpecific")
    specific["countrate_correction_count_cutoff"] = 1000
    f.move(f"{SENSOR}/pixel_mask", f"{SENSOR}/detectorSpecific/pixel_mask")
    put(f, f"{SENSOR}/detector_distance", 0.12, units="m")
    for name in ("module", "transformations", "depends_on", "distance", "saturation_value"):
        del f[f"{SENSOR}/{name}"]
    del f["entry/definition"]
    return {"remarks": ["no NXdetector_module"]}


def external_frames(f: h5py.File) -> None:
    """The signal is a link to another file."""
    name = f"{Path(f.filename).stem}_frames.h5"
    with h5py.File(Path(f.filename).with_name(name), "w") as other:
        other["frames"] = f[DATA][()]
    del f[DATA]
    f[DATA] = h5py.ExternalLink(name, "frames")


def virtual_frames(f: h5py.File) -> None:
    """A virtual dataset with a source for each frame."""
    _virtual(f, range(N_FRAMES))


def _virtual(f: h5py.File, written: range) -> None:
    """Put a virtual dataset in the place of the frames; of its sources some are written."""
    frames = f[DATA][()]
    layout = h5py.VirtualLayout(frames.shape, "i4")
    for number in range(N_FRAMES):
        name = f"{Path(f.filename).stem}_part_{number}.h5"
        if number in written:
            with h5py.File(Path(f.filename).with_name(name), "w") as other:
                other["data"] = frames[number]
        layout[number] = h5py.VirtualSource(name, "data", SHAPE)
    del f[DATA]
    f.create_virtual_dataset(DATA, layout, fillvalue=-1)


def virtual_short(f: h5py.File) -> None:
    """The second source was never written."""
    _virtual(f, range(1))


def virtual_cut(f: h5py.File) -> None:
    """The only source has one frame, of two."""
    frames = f[DATA][()]
    with h5py.File(Path(f.filename).with_name("cut.h5"), "w") as other:
        other["data"] = frames[:1]
    layout = h5py.VirtualLayout(frames.shape, "i4")
    layout[:] = h5py.VirtualSource("cut.h5", "data", frames.shape)
    del f[DATA]
    f.create_virtual_dataset(DATA, layout, fillvalue=-1)


def virtual_hole(f: h5py.File) -> None:
    """The second frame has no source at all."""
    frames = f[DATA][()]
    with h5py.File(Path(f.filename).with_name("hole.h5"), "w") as other:
        other["data"] = frames
    layout = h5py.VirtualLayout(frames.shape, "i4")
    layout[:1] = h5py.VirtualSource("hole.h5", "data", frames.shape)[:1]
    del f[DATA]
    f.create_virtual_dataset(DATA, layout, fillvalue=-1)


LOST = {
    "virtual_short": (virtual_short, "part_1.h5 is missing"),
    "virtual_cut": (virtual_cut, "cut.h5 has 1 frames of 2"),
    "virtual_hole": (virtual_hole, "no source"),
}
"""Dialects whose second frame is lost, and why it is said to be."""


# ---------------------------------------------------------------- groups in any order


def diode_first(f: h5py.File) -> None:
    group = f.create_group("entry/instrument/bpm")
    group.attrs["NX_class"] = "NXdetector"
    group["data"] = np.ones(4)


def two_detectors(f: h5py.File) -> None:
    """Another detector with modules comes first; no frames fit it."""
    f.copy(SENSOR, "entry/instrument/another")
    f["entry/instrument/another/module/data_size"][...] = [40, 50]


def thumbnail_first(f: h5py.File) -> None:
    _thumbnail(f, (8, 10))


def frames_of_the_same_shape_first(f: h5py.File) -> None:
    """Sums of frames have their shape; the entry names the right group."""
    _thumbnail(f, (N_FRAMES, *SHAPE))


def _thumbnail(f: h5py.File, shape: tuple[int, ...]) -> None:
    group = f.create_group("entry/average")
    group.attrs.update(NX_class="NXdata", signal="data")
    group["data"] = np.zeros(shape, np.float32)


def no_default(f: h5py.File) -> None:
    del f["entry"].attrs["default"]


def signal_of_old(f: h5py.File) -> None:
    """The dataset itself says that it is the signal."""
    del f["entry/data"].attrs["signal"]
    f.move(DATA, "entry/data/counts")
    f["entry/data/counts"].attrs["signal"] = 1
    for end in ("offset", "scaling_factor"):
        f.move(f"entry/data/data_{end}", f"entry/data/counts_{end}")


def data_in_the_detector(f: h5py.File) -> None:
    for name in ("data", "data_offset", "data_scaling_factor"):
        f.move(f"entry/data/{name}", f"{SENSOR}/{name}")
    del f["entry/data"]


def another_entry_first(f: h5py.File) -> None:
    f.create_group("another").attrs["NX_class"] = "NXentry"
    f["another/definition"] = "NXarchive"


def bytes_for_texts(f: h5py.File) -> None:
    """All texts are of fixed length."""

    def visit(_: str, item: h5py.Group | h5py.Dataset) -> None:
        for name, value in item.attrs.items():
            if isinstance(value, str):
                item.attrs[name] = np.bytes_(value)

    f.visititems(visit)
    put(f, "entry/definition", np.bytes_("NXmx"))
    put(f, f"{SENSOR}/depends_on", np.bytes_(f[f"{SENSOR}/depends_on"].asstr()[()]))


# ---------------------------------------------------------------- numbers of the pixels


def offset_per_image(f: h5py.File) -> None:
    shifts = np.array([0, 40], np.int32)
    put(f, DATA, f[DATA][()] + shifts[:, None, None])
    put(f, "entry/data/data_offset", -OFFSET_ADU - shifts.astype(float))


def offset_per_pixel(f: h5py.File) -> None:
    shifts = np.arange(320, dtype=np.int32).reshape(SHAPE)
    put(f, DATA, f[DATA][()] + shifts)
    put(f, "entry/data/data_offset", -OFFSET_ADU - shifts.astype(float))


def offset_per_image_and_pixel(f: h5py.File) -> None:
    shifts = np.arange(640, dtype=np.int32).reshape(N_FRAMES, *SHAPE)
    put(f, DATA, f[DATA][()] + shifts)
    put(f, "entry/data/data_offset", -OFFSET_ADU - shifts.astype(float))


def scaling_per_image(f: h5py.File) -> None:
    put(f, DATA, (f[DATA][()] - OFFSET_ADU) * np.array([1, 3], np.int32)[:, None, None])
    put(f, "entry/data/data_offset", 0.0)
    put(f, "entry/data/data_scaling_factor", np.array([0.5, 0.5 / 3]))


def scaling_per_pixel(f: h5py.File) -> dict[str, np.ndarray]:
    """A map of gains, with a dead pixel."""
    factors = 1.0 + np.arange(320).reshape(SHAPE) / 320
    put(f, DATA, (f[DATA][()] - OFFSET_ADU) * factors)
    scaling = 0.5 / factors
    scaling[7, 8] = 0.0
    put(f, "entry/data/data_offset", 0.0)
    put(f, "entry/data/data_scaling_factor", scaling)
    good = np.repeat(mask()[None], N_FRAMES, axis=0)
    good[..., 7, 8] = False
    return {"good": good}


def old_scaling_names(f: h5py.File) -> None:
    for old, new in (("offset", "data_offset"), ("scaling_factor", "data_scaling_factor")):
        f.move(f"entry/data/{new}", f"entry/data/{old}")


def scaling_in_the_detector(f: h5py.File) -> None:
    for old, new in (("offset", "data_offset"), ("scaling_factor", "data_scaling_factor")):
        f.move(f"entry/data/{new}", f"{SENSOR}/{old}")


def over_the_range_per_image(f: h5py.File) -> dict[str, np.ndarray]:
    """The trusted range is one of stored numbers, also where offsets vary."""
    offset_per_image(f)
    frames = f[DATA][()]
    frames[1, 10, 11] = 1001
    frames[0, 10, 12] = -101
    put(f, DATA, frames)
    good = np.repeat(mask()[None], N_FRAMES, axis=0)
    good[1, 0, 10, 11] = good[0, 0, 10, 12] = False
    return {"good": good}


def gaps_of_type(name: str) -> Callable[[h5py.File], dict[str, np.ndarray]]:
    """Return the dialect that marks gaps and bad pixels by numbers of a type, without a mask."""

    def edit(f: h5py.File) -> dict[str, np.ndarray]:
        info = np.iinfo(name)
        gap, bad = (-1, -2) if info.min else (info.max, info.max - 1)
        frames = f[DATA][()].astype(name)
        frames[:, 5] = gap
        frames[:, :, 6] = bad
        if info.min:
            frames[:, 9, 9] = info.min
        put(f, DATA, frames)
        for item in ("pixel_mask", "underload_value", "saturation_value"):
            del f[f"{SENSOR}/{item}"]
        good = np.ones((N_FRAMES, 1, *SHAPE), bool)
        good[:, :, 5] = good[..., 6] = False
        if info.min:
            good[..., 9, 9] = False
        return {"good": good, "remarks": ["no underload_value"] if info.min else []}

    return edit


def noise_about_zero(f: h5py.File) -> None:
    """Numbers below 0 are noise where they reach lower than those that stand for gaps."""
    frames = f[DATA][()] - 50
    put(f, DATA, frames)
    put(f, "entry/data/data_offset", 50.0 - OFFSET_ADU)
    del f[f"{SENSOR}/underload_value"]


def mask_per_image(f: h5py.File) -> dict[str, np.ndarray]:
    bad = np.zeros((N_FRAMES, *SHAPE), np.uint32)
    bad[:, 3:5] = 1
    bad[1, 8:10, 2:9] = 1
    put(f, f"{SENSOR}/pixel_mask", bad)
    return {"good": (bad == 0)[:, None]}


def mask_of_bits(f: h5py.File) -> dict[str, np.ndarray]:
    """Gap, dead, noisy, by the user, virtual pixel: none may be used. The flag is no mask."""
    bad = np.zeros(SHAPE, np.uint32)
    for column, bit in enumerate((0, 1, 4, 8, 31)):
        bad[2, column] = np.uint32(1) << np.uint32(bit)
    put(f, f"{SENSOR}/pixel_mask", bad.view(np.int32))
    f[f"{SENSOR}/pixel_mask_applied"] = True
    return {"good": np.repeat((bad == 0)[None, None], N_FRAMES, axis=0)}


def second_mask(f: h5py.File) -> dict[str, np.ndarray]:
    bad = np.zeros(SHAPE, np.int8)
    bad[12] = 1
    f[f"{SENSOR}/pixel_mask_1"] = bad
    good = np.repeat(mask()[None], N_FRAMES, axis=0)
    return {"good": good & (bad == 0)}


def no_mask(f: h5py.File) -> dict[str, np.ndarray]:
    del f[f"{SENSOR}/pixel_mask"]
    return {"good": np.ones((N_FRAMES, 1, *SHAPE), bool)}


# ---------------------------------------------------------------- geometry


def relative_chain(f: h5py.File) -> None:
    f[f"{SENSOR}/depends_on"][...] = "transformations/AXIS_D0"
    f[f"{STEPS}/AXIS_D0"].attrs["depends_on"] = "AXIS_RAIL"
    f[f"{MODULE}/module_offset"].attrs["depends_on"] = "../transformations/AXIS_D0"
    f[f"{MODULE}/fast_pixel_direction"].attrs["depends_on"] = "module_offset"
    f[f"{MODULE}/slow_pixel_direction"].attrs["depends_on"] = "./module_offset"


def path_without_root(f: h5py.File) -> None:
    f[f"{MODULE}/module_offset"].attrs["depends_on"] = f"{STEPS}/AXIS_D0"


def default_depends(f: h5py.File) -> None:
    """Neither the module's offset nor its pixels say what they depend on."""
    for name in ("module_offset", "fast_pixel_direction", "slow_pixel_direction"):
        del f[f"{MODULE}/{name}"].attrs["depends_on"]


def default_depends_without_offset(f: h5py.File) -> None:
    default_depends(f)
    f[f"{STEPS}/AXIS_RAIL"].attrs["offset"] = f[f"{MODULE}/module_offset"].attrs["offset"]
    del f[f"{MODULE}/module_offset"]


def offset_on_pixels(f: h5py.File) -> None:
    old = f[f"{MODULE}/module_offset"].attrs
    for name in ("fast_pixel_direction", "slow_pixel_direction"):
        f[f"{MODULE}/{name}"].attrs.update(offset=old["offset"], depends_on=old["depends_on"])
    del f[f"{MODULE}/module_offset"]


def offset_on_the_rail(f: h5py.File) -> None:
    """All of the distance is an offset, in metres."""
    rail = f[f"{STEPS}/AXIS_RAIL"]
    rail.attrs.update(offset=[0, 0, rail[0] / 1000], offset_units="m")
    rail[...] = 0.0


def value_for_each_frame(f: h5py.File) -> None:
    put(f, f"{STEPS}/AXIS_RAIL", np.full(N_FRAMES, 120.0))


def metres_and_reversed(f: h5py.File) -> None:
    """Pixel sizes in metres, one of them negative along the opposite vector; vectors not of length
    1.
    """
    put(f, f"{MODULE}/fast_pixel_direction", -0.0002, units="M", vector=[2.0, 0, 0])
    put(f, f"{MODULE}/slow_pixel_direction", [200.0], units="µm", vector=[0, -3.0, 0])


def type_by_unit(f: h5py.File) -> None:
    """Steps state no type: what has an angle turns."""
    f[f"{STEPS}/AXIS_D0"][...] = 90.0
    for name in ("AXIS_D0", "AXIS_RAIL"):
        del f[f"{STEPS}/{name}"].attrs["transformation_type"]
    turned = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    for name in ("module_offset", "fast_pixel_direction", "slow_pixel_direction"):
        item = f[f"{MODULE}/{name}"]
        for attribute in ("vector", "offset"):
            item.attrs[attribute] = turned @ item.attrs[attribute]


DIALECTS: dict[str, Callable[[h5py.File], Any]] = {
    edit.__name__: edit
    for edit in (
        size_fast_slow,
        three_sizes,
        sizes_with_frames,
        sizes_are_floats,
        panel_axis,
        part_of_a_frame,
        two_modules,
        panels_along_an_axis,
        one_frame,
        dectris_master,
        dectris_signal,
        dectris_of_old,
        external_frames,
        virtual_frames,
        diode_first,
        two_detectors,
        thumbnail_first,
        frames_of_the_same_shape_first,
        no_default,
        signal_of_old,
        data_in_the_detector,
        another_entry_first,
        bytes_for_texts,
        offset_per_image,
        offset_per_pixel,
        offset_per_image_and_pixel,
        scaling_per_image,
        scaling_per_pixel,
        old_scaling_names,
        scaling_in_the_detector,
        over_the_range_per_image,
        noise_about_zero,
        mask_per_image,
        mask_of_bits,
        second_mask,
        no_mask,
        relative_chain,
        path_without_root,
        default_depends,
        default_depends_without_offset,
        offset_on_pixels,
        offset_on_the_rail,
        value_for_each_frame,
        metres_and_reversed,
        type_by_unit,
    )
}
DIALECTS |= {
    f"frames of {name}": of_type(name)
    for name in ("i1", "u1", "i2", "u2", ">i2", ">u4", "u4", "i8", "u8", "f2", "f4", "f8")
}
DIALECTS |= {
    f"gaps in {name}": gaps_of_type(name) for name in ("i1", "i2", "i4", "i8", "u1", "u2", "u4")
}
DIALECTS |= nexus_wavelengths.DIALECTS
"""Dialects that are read, by name."""
