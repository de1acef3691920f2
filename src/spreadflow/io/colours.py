"""Masks and colours of the pixels that are correlated: .npy files in the shape of an image."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.errors import FileError
from spreadflow.io import store

LARGEST_COLOUR = 1 << 14
"""Colours above this are those of a damaged file."""

FEWEST_TESTED, MOST_TESTED = 10, 100
"""Pixels of a test mask: the double loop that they are compared with is slow."""

ABOUT = "docs/correlate.md says what masks and colours are."
"""What to do about a file that is none."""


class Pixels(NamedTuple):
    """The pixels that are correlated."""

    shape: tuple[int, ...]
    """of an image"""
    places: np.ndarray
    """(pixel,) int64 of each, in a flat image"""
    colours: np.ndarray
    """(pixel,) int32 from 1; 0 = has a part in the mean of its fine colour alone"""
    fine_colours: np.ndarray
    """(pixel,) int32 from 1"""
    n_masked_in: int
    """pixels of the mask, also those that are left out"""

    @property
    def distinct_colours(self) -> np.ndarray:
        """(colour,) int32 the colours that there are, ascending."""
        return np.unique(self.colours[self.colours > 0])

    @property
    def mask(self) -> np.ndarray:
        """Which pixels of an image these are, bool."""
        return self.image(np.ones(len(self.places), bool))

    def image(self, values: np.ndarray) -> np.ndarray:
        """Return values (pixel,) in the shape of an image, 0 elsewhere."""
        image = np.zeros(self.shape, values.dtype)
        image.ravel()[self.places] = values
        return image


def read_pixels(
    shape: tuple[int, ...],
    mask: Path | None,
    colours: Path | None,
    fine_colours: Path | None,
) -> Pixels:
    """Return the pixels of a mask that have a colour, and those that have a fine colour in common
    with such a pixel, in the mask or not: they count in its mean. None = all pixels; one colour;
    fine colours as colours. Raises FileError.
    """
    is_used = np.ones(shape, bool) if mask is None else read_mask(mask, shape)
    coarse = np.ones(shape, np.int32) if colours is None else _colours(colours, shape)
    fine = coarse if fine_colours is None else _colours(fine_colours, shape)
    has_colour = coarse > 0
    n_without = int(np.count_nonzero(is_used & has_colour & (fine == 0)))
    if n_without:
        expected = "a fine colour for every pixel of the mask that has a colour"
        raise FileError(fine_colours, expected, f"{n_without} pixels without", ABOUT)
    if not np.any(is_used & has_colour):
        raise FileError(colours, "a pixel of the mask with a colour", "none", ABOUT)
    is_shared = (fine > 0) & np.isin(fine, fine[has_colour])
    places = np.flatnonzero(is_used & (has_colour | is_shared))
    return Pixels(
        shape=shape,
        places=places,
        colours=coarse.ravel()[places],
        fine_colours=fine.ravel()[places],
        n_masked_in=int(np.count_nonzero(is_used)),
    )


def check_test_mask(path: Path, shape: tuple[int, ...]) -> None:
    """Raise FileError where a file is no mask of few pixels."""
    n = int(np.count_nonzero(read_mask(path, shape)))
    if not FEWEST_TESTED <= n <= MOST_TESTED:
        expected = f"a mask of {FEWEST_TESTED} to {MOST_TESTED} pixels for tests"
        raise FileError(path, expected, f"{n} pixels", ABOUT)


def read_mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return a mask of this shape as bool. Raises FileError."""
    numbers = _whole_numbers(path, shape)
    values = np.unique(numbers)
    if not np.isin(values, (0, 1)).all() or not numbers.any():
        expected = "zeros and ones (1 = correlate the pixel), at least one of them 1"
        raise FileError(path, expected, f"values {values[:5].tolist()}", ABOUT)
    return numbers.astype(bool)


def _colours(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return colours as int32. Raises FileError."""
    numbers = _whole_numbers(path, shape)
    if numbers.min() < 0 or numbers.max() > LARGEST_COLOUR:
        found = f"numbers from {numbers.min()} to {numbers.max()}"
        raise FileError(path, f"colours from 0 (none) to {LARGEST_COLOUR}", found, ABOUT)
    return numbers.astype(np.int32)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as a .npy file. Raises FileError."""
    with store.replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


def _whole_numbers(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return whole numbers of this shape from a file. Raises FileError where it has others."""
    numbers = read_array(path, shape)
    if numbers.dtype.kind not in "iub":
        raise FileError(path, "whole numbers", numbers.dtype, ABOUT)
    return numbers


def read_array(path: Path, shape: tuple[int, ...] | None) -> np.ndarray:
    """Return the array in a .npy file. shape: that it has to have; None = any. Raises FileError."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FileError(path, "a .npy file", error, ABOUT) from None
    if shape is not None and array.shape != shape:
        raise FileError(path, f"shape {shape}, that of an image", array.shape, ABOUT)
    return array
