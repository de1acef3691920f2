"""Where the elements of an array of pixels lie in an image of the detector, as it stands in the
laboratory.
"""

from typing import NamedTuple

import numpy as np
import scipy


class ImageMap(NamedTuple):
    """The place of each element. Several may share one, and some may have none."""

    row: np.ndarray
    """as the array, int64 row of the image, downwards; −1 = the element has no place"""
    column: np.ndarray
    """as the array, int64 column; −1 = none"""

    @property
    def shape(self) -> tuple[int, int]:
        """(row, column) of the image."""
        return int(self.row.max()) + 1, int(self.column.max()) + 1

    @property
    def is_placed(self) -> np.ndarray:
        """As the array, bool: which elements have a place."""
        return (self.row >= 0) & (self.column >= 0)

    def image(self, array: np.ndarray) -> np.ndarray:
        """Return the image of an array, 0 where there is no element; of several at one place, that
        of the last.
        """
        image = np.zeros(self.shape, array.dtype)
        image[self.row[self.is_placed], self.column[self.is_placed]] = array[self.is_placed]
        return image

    def array(self, image: np.ndarray) -> np.ndarray:
        """Return the array of an image, 0 where an element has no place."""
        array = np.zeros(self.row.shape, image.dtype)
        array[self.is_placed] = image[self.row[self.is_placed], self.column[self.is_placed]]
        return array

    def shared(self) -> list[tuple[int, int, list[int]]]:
        """Return row and column of each place that several elements share, with their numbers in
        the flat array.
        """
        elements = np.flatnonzero(self.is_placed)
        place = self._place().ravel()[elements]
        order = np.argsort(place, kind="stable")
        places, first, number = np.unique(place[order], return_index=True, return_counts=True)
        found = []
        for i in np.flatnonzero(number > 1):
            row, column = divmod(int(places[i]), self.shape[1])
            own = elements[order[first[i] : first[i] + number[i]]]
            found.append((row, column, own.tolist()))
        return found

    def gaps(self) -> np.ndarray:
        """Return row and column (place, 2) of the places without an element, within the detector:
        from which there is no way to the image's edge but over elements.
        """
        is_empty = np.ones(self.shape, bool)
        is_empty.ravel()[self._place()[self.is_placed]] = False
        regions, _ = scipy.ndimage.label(is_empty)
        at_edges = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
        return np.argwhere((regions > 0) & ~np.isin(regions, at_edges))

    def _place(self) -> np.ndarray:
        """Return the place of each element in the flat image."""
        return self.row * self.shape[1] + self.column


def of_positions(x: np.ndarray, y: np.ndarray, pixel: float) -> ImageMap:
    """Return the map of elements that lie at x, to the right, and y, upwards, in units of which a
    pixel has so many; not a number = the element has no place.
    """
    is_placed = np.isfinite(x) & np.isfinite(y)
    row = np.full(x.shape, -1, np.int64)
    column = np.full(x.shape, -1, np.int64)
    row[is_placed] = np.rint((y[is_placed].max() - y[is_placed]) / pixel)
    column[is_placed] = np.rint((x[is_placed] - x[is_placed].min()) / pixel)
    return ImageMap(row, column)


def of_images(shape: tuple[int, int]) -> ImageMap:
    """Return the map of an array that is an image."""
    row, column = np.indices(shape)
    return ImageMap(row, column)
