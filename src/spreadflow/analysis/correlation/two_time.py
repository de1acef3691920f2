"""Correlation of each two shots, C(t₁, t₂): of samples whose dynamics change with time.

What is summed is the product of the values of a pixel in both shots, over all pixels of a label,
which is a product of two matrices. Pixels of a label have a colour and a fine colour in common, so
that sums of ranks add up and are divided by the means of fine colours afterwards.

C takes its means from the two shots themselves; g2 by age takes them from all partners of an age,
as `curves` does from all: with a single age both are the same number.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.correlation.calculators import Buffered
from spreadflow.analysis.correlation.engine import Limits

MULTIPLIED = 4096
"""Pixels whose values are multiplied at once."""


class Labels(NamedTuple):
    """The colours and fine colours that pixels have together."""

    colours: np.ndarray
    """(label,) int; 0 = its pixels have a part in the means of their fine colour alone"""
    fine_colours: np.ndarray
    """(label,) int"""
    of_pixel: np.ndarray
    """(pixel,) int64 label of each pixel"""

    @property
    def distinct_colours(self) -> np.ndarray:
        """(colour,) int the colours that there are, ascending."""
        return np.unique(self.colours[self.colours > 0])


class TwoTimeSums(NamedTuple):
    """Sums over the pixels of each label that are not bad. Those of shards add up."""

    times: np.ndarray
    """(shot,) int64 ascending"""
    n_pixels: np.ndarray
    """(label,) float64"""
    values: np.ndarray
    """(label, shot) float64"""
    products: np.ndarray
    """(label, shot, shot) float64"""


class TwoTime(NamedTuple):
    """C of each colour."""

    times: np.ndarray
    """(shot,) int64 ascending; shots that are missing have no row"""
    colours: np.ndarray
    """(colour,) int ascending"""
    correlation: np.ndarray
    """(colour, shot, shot); NaN where all pixels of the colour are bad. On the diagonal, photons
    are correlated with themselves
    """


class ByAge(NamedTuple):
    """g2 of each colour from partners of an age: the time in the middle between them."""

    ages: np.ndarray
    """(age,) float64 middle of each of equal parts of the time, in units of the shot id"""
    delays: np.ndarray
    """(delay,) int64"""
    counts: np.ndarray
    """(age, delay) int64 partners"""
    colours: np.ndarray
    """(colour,) int ascending"""
    g2: np.ndarray
    """(colour, age, delay); NaN where there are no partners, or no pixels"""


def labels_of(colours: np.ndarray, fine_colours: np.ndarray) -> Labels:
    """Return the labels of pixels. colours, fine_colours: (pixel,) int."""
    pairs = np.stack([colours, fine_colours])
    (own, fine), label = np.unique(pairs, axis=1, return_inverse=True)
    return Labels(own, fine, label.ravel())


class TwoTimeShots(Buffered):
    """The last `n_shots` shots, of which each two are correlated when that is asked for. Beside
    their values, memory has 8 bytes for each label and two shots.
    """

    def __init__(self, labels: np.ndarray, n_labels: int, n_shots: int, limits: Limits):
        super().__init__(len(labels), np.zeros(0, np.int64), n_shots, limits)
        self._labels = labels
        self._n_labels = n_labels

    def result(self, is_bad: np.ndarray | None = None) -> TwoTimeSums:
        """Return the sums of the shots that are held now. is_bad: (pixel,) int8 which pixels have
        no part in them; None = those that are bad in a shot that was stored.
        """
        times, rows = self.history.times, self.history.rows
        n_pixels = np.zeros(self._n_labels)
        values = np.zeros((self._n_labels, len(rows)))
        products = np.zeros((self._n_labels, len(rows), len(rows)))
        is_good = (self.engine.is_bad if is_bad is None else is_bad) == 0
        for label in range(self._n_labels):
            pixels = np.flatnonzero(is_good & (self._labels == label))
            n_pixels[label] = len(pixels)
            for first in range(0, len(pixels), MULTIPLIED):
                block = self.engine.values(pixels[first : first + MULTIPLIED], rows)
                values[label] += block.sum(axis=0)
                products[label] += block.T @ block
        return TwoTimeSums(times, n_pixels, values, products)


def two_time(sums: TwoTimeSums, labels: Labels) -> TwoTime:
    """Return C of each colour: the mean, over its pixels, of the product of both values, divided by
    the means of the fine colour in both shots.
    """
    means = _fine_means(sums, labels)
    colours = labels.distinct_colours
    n = _pixels_of(colours, sums, labels)
    correlation = np.zeros((len(colours), *sums.products.shape[1:]))
    for label in np.flatnonzero(sums.n_pixels * labels.colours).tolist():
        mean = means[label]
        ratios = sums.products[label] / np.outer(mean, mean)
        correlation[np.searchsorted(colours, labels.colours[label])] += ratios
    return TwoTime(sums.times, colours, correlation / n[:, None, None])


def g2_by_age(sums: TwoTimeSums, labels: Labels, delays: np.ndarray, n_ages: int) -> ByAge:
    """Return g2 by age for some delays, as `curves` forms it."""
    times = sums.times
    span = max(int(np.ptp(times)) if len(times) else 0, 1)
    start = times[:1].sum()
    means = _fine_means(sums, labels)
    colours = labels.distinct_colours
    place = np.searchsorted(colours, labels.colours)
    n_pixels = _pixels_of(colours, sums, labels)
    counts = np.zeros((n_ages, len(delays)), np.int64)
    g2 = np.zeros((len(colours), n_ages, len(delays)))
    for i, delay in enumerate(delays.tolist()):
        _, earlier, later = np.intersect1d(times + delay, times, True, return_indices=True)
        middle = times[earlier] + delay / 2 - start
        age = np.minimum((middle * n_ages / span).astype(np.int64), n_ages - 1)
        counts[:, i] = n = np.bincount(age, minlength=n_ages)
        with np.errstate(invalid="ignore"):
            for label in np.flatnonzero(sums.n_pixels * labels.colours).tolist():
                product, past, future = (
                    np.bincount(age, values, n_ages) / n
                    for values in (
                        sums.products[label, earlier, later],
                        means[label, earlier],
                        means[label, later],
                    )
                )
                g2[place[label], :, i] += product / (past * future)
    ages = start + span * (np.arange(n_ages) + 0.5) / n_ages
    return ByAge(ages, delays, counts, colours, g2 / n_pixels[:, None, None])


def _fine_means(sums: TwoTimeSums, labels: Labels) -> np.ndarray:
    """Return the means (label, shot) of the fine colour of each label."""
    _, fine = np.unique(labels.fine_colours, return_inverse=True)
    total = np.zeros((fine.max() + 1, len(sums.times)))
    np.add.at(total, fine, sums.values)
    n = np.bincount(fine, sums.n_pixels)
    return (total / np.maximum(n, 1)[:, None])[fine]


def _pixels_of(colours: np.ndarray, sums: TwoTimeSums, labels: Labels) -> np.ndarray:
    """Return the number of pixels of each colour; NaN where none is left."""
    has_colour = labels.colours > 0
    place = np.searchsorted(colours, labels.colours[has_colour])
    n = np.bincount(place, sums.n_pixels[has_colour], len(colours))
    return np.where(n > 0, n, np.nan)
