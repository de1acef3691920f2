"""Sums over partners by Fourier transforms: all delays cost as much as one.

Values lie on a dense axis of time, 0 where there is no shot, beside a line that is 1 where there is
one and 0 elsewhere. Products of values are correlated with values; earlier values are values
correlated with that line, later ones that line with values, and the line with itself counts the
partners: a gap is no value of 0.

The axis is cut into segments that are little longer than the longest delay, each followed by what
partners of its shots lie behind it. Memory follows the longest delay, not how long the shots took.
"""

from typing import NamedTuple

import numpy as np
import scipy

SHORTEST = 4096
"""Points of a segment with what follows it: shorter ones would be many."""

REACHES = 4
"""As many times the longest delay, where that is more."""


class Axis(NamedTuple):
    """Where shots and delays are on a dense axis of time."""

    delays: np.ndarray
    """(delay,) int64, positive, in units of the shot id"""
    can_be: np.ndarray
    """(delay,) bool, whether any two shots can be that far apart"""
    places: np.ndarray
    """(shot,) int64 ascending from 0, in units of what divides all their distances"""
    lags: np.ndarray
    """(lag,) int64 the delays that can be, in these units"""
    n_points: int
    """of a transform"""
    stride: int
    """points of a segment"""


def axis_of(times: np.ndarray, delays: np.ndarray) -> Axis:
    """Return the axis of shots at some times, (shot,) int64 ascending."""
    unit = max(int(np.gcd.reduce(np.diff(times))), 1)
    places = (times - times[:1]) // unit
    last = int(places.max(initial=0))
    can_be = (delays % unit == 0) & (delays // unit <= last)
    lags = delays[can_be] // unit
    reach = int(lags.max(initial=0))
    longest = min(max(REACHES * reach, SHORTEST), last + 1 + reach)
    n_points = scipy.fft.next_fast_len(longest, real=True)
    return Axis(delays, can_be, places, lags, n_points, n_points - reach)


def sums(axis: Axis, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of partners (delay,) int64, and sums (3, delay, pixel) of products,
    earlier and later values. values: (pixel, shot) float64.

    A sum of products differs from the exact one by a few times ε log₂(n) Σ x², where n is the
    length of a transform and ε = 2.2·10⁻¹⁶: relative to the largest values of a pixel, not to
    those at the delay.
    """
    counts = np.zeros(len(axis.delays), np.int64)
    total = np.zeros((3, len(axis.delays), len(values)))
    if len(axis.lags):
        is_there = np.ones((1, len(axis.places)))
        correlated = _correlated(axis, np.concatenate([is_there, values]))
        counts[axis.can_be] = np.rint(correlated[0, 0]).astype(np.int64)
        total[:, axis.can_be] = correlated[:, 1:].transpose(0, 2, 1)
    return counts, total


def _correlated(axis: Axis, lines: np.ndarray) -> np.ndarray:
    """Return (3, line, lag): each of some lines with itself, with the first one later, and with the
    first one earlier. lines: (line, shot).
    """
    n = axis.n_points
    places = axis.places
    spectra = np.zeros((3, len(lines), n // 2 + 1), np.complex128)
    for start in (np.unique(places // axis.stride) * axis.stride).tolist():
        first, end, behind = np.searchsorted(places, [start, start + axis.stride, start + n])
        earlier = _spectra(lines[:, first:end], places[first:end] - start, n).conj()
        later = _spectra(lines[:, first:behind], places[first:behind] - start, n)
        spectra[0] += earlier * later
        spectra[1] += earlier * later[0]
        spectra[2] += earlier[0] * later
    return scipy.fft.irfft(spectra, n, overwrite_x=True)[..., axis.lags]


def _spectra(lines: np.ndarray, places: np.ndarray, n: int) -> np.ndarray:
    """Return the transforms of lines (line, shot) on an axis of n points."""
    dense = np.zeros((len(lines), n))
    dense[:, places] = lines
    return scipy.fft.rfft(dense, overwrite_x=True)
