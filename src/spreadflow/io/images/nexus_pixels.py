"""What an NXmx file says of the numbers in its pixels: offset and scaling, trusted range, masks,
and numbers that stand for gaps and bad pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import h5py
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images.nexus_frames import Stack
from spreadflow.io.images.nexus_items import (
    ABOUT_FILES,
    dataset,
    item_of,
    number,
    numbers,
    place,
)
from spreadflow.io.images.stored_masks import is_nonzero

GAPS = (-1, -2)
"""Lowest numbers of signed integers that stand for gaps and bad pixels where no lower end of the
trusted range is stated: noise about 0 reaches lower ones too.
"""

DECTRIS_CUTOFF = "detectorSpecific/countrate_correction_count_cutoff"
"""Where Dectris detectors state the highest number that counts, beside `saturation_value`."""

HIGHEST = 1e12
"""Offsets and scaling factors, or their inverse, beyond which they make no sense."""

N_LOOKED_AT = 2
"""Frames in which numbers of gaps are looked for."""

WIDE_BITS = 32
"""Integers of as many bits reach further than any detector counts: the highest are no overloads."""


class Term(NamedTuple):
    """Offset or scaling of the pixels."""

    values: np.ndarray | h5py.Dataset
    """() for all, (frame, 1, ...) or shaped like a frame, or like all frames: read frame by frame
    """
    has_frames: bool
    """whether the first axis is that of frames"""

    @property
    def is_one(self) -> bool:
        """Whether it is one number for all pixels of all frames."""
        return self.values.ndim == 0

    def of_frame(self, frame: int) -> np.ndarray:
        """Return it for the pixels of a frame, so that it broadcasts with these."""
        if isinstance(self.values, h5py.Dataset):
            return numbers(self.values, frame)
        return np.asarray(self.values[frame] if self.has_frames else self.values)

    @property
    def highest(self) -> float:
        """The highest of all, or of the first frame where each has its own for each pixel."""
        is_stored = isinstance(self.values, h5py.Dataset)
        values = self.of_frame(0) if is_stored else np.asarray(self.values)
        return float(np.max(values, where=np.isfinite(values), initial=-np.inf))


def term(groups: Sequence[h5py.Group], names: Sequence[str], stack: Stack, default: float) -> Term:
    """Return the first dataset of these names in these groups as offset or scaling; the default
    where there is none. Raises FileError for one that fits neither frames nor pixels.
    """
    items = [dataset(group, name) for group in groups for name in names]
    stated = [item for item in items if item is not None]
    if not stated:
        return Term(np.array(default), False)
    item = stated[0]
    shape = stack.frame_shape
    if item.shape == (stack.n_frames, *shape) and item.ndim > len(shape) and stack.n_frames > 1:
        return Term(item, True)
    values = numbers(item).astype(float)
    if values.size and (values == values.flat[0]).all():
        return Term(values.reshape(-1)[0], False)
    if values.size == np.prod(shape) and values.shape[-2:] == shape[-2:]:
        return Term(values.reshape(shape), False)
    if values.size == stack.n_frames and len(values) == stack.n_frames:
        return Term(values.reshape(-1, *[1] * len(shape)), True)
    expected = f"one number, {stack.n_frames} for the frames, or {shape} for the pixels"
    raise FileError(place(item), expected, item.shape, ABOUT_FILES)


class Calibration:
    """How the numbers of a stack become photons: photons = (number + offset) · scaling.

    groups: of the frames and of their detector. Raises FileError for numbers that make no sense.
    """

    def __init__(self, groups: Sequence[h5py.Group], stack: Stack):
        name = stack.name
        offsets = (f"{name}_offset", "data_offset", "offset")
        scalings = (f"{name}_scaling_factor", "data_scaling_factor", "scaling_factor")
        self._offset = term(groups, offsets, stack, 0.0)
        self._scaling = term(groups, scalings, stack, 1.0)
        offsets_adu = _of_frames(self._offset, stack)
        if not (np.abs(offsets_adu) < HIGHEST).all():
            raise FileError(place(groups[0]), "a finite offset", offsets_adu, ABOUT_FILES)
        factors = _of_frames(self._scaling, stack)
        if not ((factors > 1 / HIGHEST) & (factors < HIGHEST)).all():
            raise FileError(place(groups[0]), "a positive scaling factor", factors, ABOUT_FILES)

    @property
    def varies(self) -> bool:
        """Whether it differs between frames or pixels, and has to be applied to the frames."""
        return not (self._offset.is_one and self._scaling.is_one)

    @property
    def pedestal(self) -> tuple[float, float]:
        """What is left to be done to frames: pedestal (ADU) and gain (ADU per photon)."""
        gain = 1 / float(self._scaling.values) if self._scaling.is_one else 1.0
        return (0.0, gain) if self.varies else (0.0 - float(self._offset.values), gain)

    def highest(self, stored: float) -> float:
        """Return the highest number that a stored one may become when what varies is applied."""
        scaling = 1.0 if self._scaling.is_one else self._scaling.highest
        return (stored + self._offset.highest) * scaling

    def applied(self, stored: np.ndarray, frame: int) -> np.ndarray:
        """Return a frame after what varies was applied; NaN where a pixel has no offset or scaling
        that makes sense.
        """
        values = stored + self._offset.of_frame(frame)
        if self._scaling.is_one:
            return values
        scaling = self._scaling.of_frame(frame)
        return np.where(scaling > 0, values * scaling, np.nan)


def _of_frames(stated: Term, stack: Stack) -> np.ndarray:
    """Return offsets or scalings that are for all pixels of a frame; a 1 where each pixel has its
    own, of which some may make no sense.
    """
    is_for_frames = stated.is_one or stated.values.size == stack.n_frames
    return np.asarray(stated.values) if is_for_frames else np.ones(1)


class Limits(NamedTuple):
    """Which numbers of the pixels are trusted."""

    low: float
    """lowest trusted"""
    high: float
    """highest trusted"""
    highest_sound: float
    """numbers above this stand for gaps or bad pixels; those between are overloads"""
    is_open: bool = False
    """whether numbers of gaps are not known, and have to be looked for in frames"""
    remarks: tuple[str, ...] = ()
    """what was assumed"""


def limits(sensor: h5py.Group, stack: Stack) -> Limits:
    """Return which numbers are trusted: as the file says, and where it does not, without those that
    integers keep for gaps and bad pixels. Raises FileError.
    """
    low = number(sensor, "underload_value", -np.inf)
    high = number(sensor, "saturation_value", number(sensor, DECTRIS_CUTOFF, np.inf))
    if low > high:
        expected = "underload_value below saturation_value"
        raise FileError(place(sensor), expected, f"{low:g} and {high:g}", "Correct them.")
    if stack.dtype.kind not in "iu":
        return Limits(low, high, np.inf)
    info = np.iinfo(stack.dtype)
    is_wide = info.bits >= WIDE_BITS
    if stack.dtype.kind == "u":
        highest = nearer_zero(info.max, 2) if is_wide or np.isinf(high) else np.inf
        return Limits(low, high, highest)
    if np.isinf(high):
        high = nearer_zero(info.max, 1)
    if np.isfinite(low):
        return Limits(low, high, np.inf)
    return Limits(nearer_zero(info.min, 1), high, np.inf, is_open=True)


def nearer_zero(extreme: int, steps: int) -> float:
    """Return the number so many steps before the last of a type of integers, on the side of 0 where
    floats have no such number.
    """
    before = float(extreme - steps * np.sign(extreme))
    return before if before != float(extreme) else float(np.nextafter(before, 0.0))


def without_gaps(stack: Stack, plain: Limits) -> Limits:
    """Return limits without the numbers below 0 that stand for gaps in signed integers, which a
    frame or two are searched for.
    """
    if not plain.is_open:
        return plain
    lowest: list[int] = []
    n_gaps = 0
    n_pixels = 0
    for frame in range(stack.n_frames):
        if len(lowest) == N_LOOKED_AT or frame > 10 * N_LOOKED_AT:
            break
        try:
            stored = stack.frame(frame)
        except OSError:
            continue
        sound = stored[stored >= plain.low]
        lowest.append(int(sound.min()) if sound.size else 0)
        n_gaps += int(np.count_nonzero(sound < 0))
        n_pixels += stored.size
    if not lowest or min(lowest) not in GAPS:
        return plain
    remark = (
        f"no underload_value, and no number below {min(lowest)}: those below 0, "
        f"{n_gaps / n_pixels:.2g} of the pixels, are taken for gaps and bad pixels"
    )
    return plain._replace(low=0.0, remarks=(remark,))


class Masks:
    """The masks of a detector, non-zero where a pixel is not to be used: of all frames, and of
    single ones. Raises FileError for one of another shape.
    """

    def __init__(self, sensor: h5py.Group, stack: Stack):
        shape = stack.frame_shape
        self._of_all: list[np.ndarray] = []
        self._of_frames: list[h5py.Dataset] = []
        groups = [sensor, item_of(sensor, "detectorSpecific")]
        for group in groups:
            if not isinstance(group, h5py.Group):
                continue
            for name in group:
                item = dataset(group, name)
                is_mask = name == "pixel_mask" or name.startswith("pixel_mask_")
                if item is not None and is_mask and item.ndim:  # pixel_mask_applied is a flag
                    self._add(item, stack)
        if not self._of_all:
            self._of_all.append(np.zeros(shape, bool))

    @property
    def is_bad(self) -> np.ndarray:
        """The pixels that are not to be used in any frame, which is not to be written to."""
        first, *others = self._of_all
        return np.logical_or.reduce(self._of_all) if others else first

    def _add(self, item: h5py.Dataset, stack: Stack) -> None:
        """Take up a mask."""
        shape = stack.frame_shape
        if item.shape in (shape, (1, *shape)):
            self._of_all.append(is_nonzero(item).reshape(shape))
        elif item.shape == (stack.n_frames, *shape):
            self._of_frames.append(item)
        else:
            expected = f"shape {shape}, or {(stack.n_frames, *shape)} for each frame its own"
            raise FileError(place(item), expected, item.shape, "Correct the mask.")

    def of_frame(self, frame: int) -> np.ndarray | None:
        """Return the pixels of a frame that are not to be used in it alone; None where there are no
        masks of frames.
        """
        if not self._of_frames:
            return None
        own = [numbers(item, frame) != 0 for item in self._of_frames]
        return np.logical_or.reduce(own)
