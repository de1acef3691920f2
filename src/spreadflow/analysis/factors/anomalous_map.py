"""Peaks of the anomalous difference Fourier map at the sites of anomalous atoms.

The coefficients are (|F(+)| − |F(−)|) exp(i φ) / (2i), φ the phase of the model, of acentric
reflections with both mates: a Fourier synthesis of f″ (Roach 2003, Methods Enzymol. 374, 141),
positive where atoms absorb.

Differences are not weighted, as in the maps of refinement programs, so that heights of tables which
arrive at σ in different ways can be compared: with a weight 1/σ² the few reflections of far smaller
σ would make up the map. Instead of it, differences that are too uncertain and those that are too
large, both relative to the others at their resolution, are left out (`NOISIEST`, `LARGEST`).
"""

from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.analysis.merging.merging import Unique
from spreadflow.units import MAD_TO_SIGMA

LARGEST = 4.0
"""A difference may be so many times the r.m.s. difference at its resolution: one of 16 000 normal
ones is larger, and those of few sites are distributed less widely.
"""

NOISIEST = 2.0**0.5
"""The σ of a difference may be so many times the r.m.s. difference at its resolution, or the
typical σ there where that is larger: without weights, a pair adds more to a peak than to the noise
as long as its variance is less than twice the mean of all.
"""

PAIRS_PER_SHELL = 100
"""Pairs of mates, at least, in which what is usual at a resolution is found."""

N_SHELLS = 20
"""Shells of resolution at most."""

SAMPLE_RATE = 4.0
"""Points of the map in the smallest d of its reflections."""

CUBIC = 3
"""Order of the interpolation between the points of the map."""

PEAK_ANG = 1.0
"""Distance from a site, Å, up to which a peak is taken for its own."""

ELSEWHERE_ANG = 2.0
"""Distance from the sites, Å, beyond which the map is taken for that of other things."""

WIDTH = 0.75
"""The same, in units of d_min, where that is farther: the peak of an atom ends at 0.72 d_min."""

STEP_ANG = 0.2
"""Steps in which a peak between the points of the map is sought, Å."""


class NoMap(ArithmeticError):
    """There are no differences, or no place away from the sites, to make a map of."""


class SitePeaks(NamedTuple):
    """Heights in units of the map's r.m.s. value away from the sites."""

    at_site: np.ndarray
    """(site,)"""
    highest: np.ndarray
    """(site,) the highest within `PEAK_ANG` of the site"""
    elsewhere: float
    """the highest away from all sites and their symmetry mates"""
    elsewhere_xyz: np.ndarray
    """(3,) where that is, fractional"""
    n_pairs: int
    """pairs of Friedel mates in the map"""
    n_dropped: int
    """pairs that were left out, with differences too large or too uncertain"""


def site_peaks(
    unique: Unique,
    amplitude: np.ndarray,
    sigma: np.ndarray,
    factors: np.ndarray,
    xyz: np.ndarray,
) -> SitePeaks:
    """Return the peaks of an anomalous difference map at sites xyz (site, 3), fractional.

    All (unique,): amplitudes and their σ, on any scale, NaN = not measured; factors, F of the
    model, complex, of a mate that of −h. Raises NoMap where no differences are known.
    """
    pairs = _pairs(unique, amplitude, sigma, factors)
    is_usual = _is_usual(pairs)
    grid = _map(unique, pairs, is_usual)
    mask = _mask(grid, xyz, max(ELSEWHERE_ANG, WIDTH * unique.d_min))
    is_elsewhere = np.asarray(mask.array) == 0
    if not is_elsewhere.any():
        raise NoMap("the sites fill the cell")
    values = np.asarray(grid.array, dtype=np.float64)[is_elsewhere]
    rms = np.sqrt(np.mean(values**2))
    if rms == 0:
        raise NoMap("the mates of all pairs are equal")

    places = np.asarray(xyz) @ _basis(grid).T
    around_site = _ball(PEAK_ANG)
    elsewhere, place_elsewhere = _highest_elsewhere(grid, mask)
    return SitePeaks(
        at_site=_heights(grid, places) / rms,
        highest=np.array([_heights(grid, place + around_site).max() for place in places]) / rms,
        elsewhere=float(elsewhere / rms),
        elsewhere_xyz=np.linalg.solve(_basis(grid), place_elsewhere),
        n_pairs=int(is_usual.sum()),
        n_dropped=int((~is_usual).sum()),
    )


class _Pairs(NamedTuple):
    """Acentric reflections of which both mates are known, those of lowest resolution first."""

    hkl: np.ndarray
    """(pair, 3)"""
    difference: np.ndarray
    """(pair,) |F(+)| − |F(−)|"""
    sigma: np.ndarray
    """(pair,)"""
    phase: np.ndarray
    """(pair,) complex phase factor of the model, the mean of F(h) and F(−h)*"""


def _pairs(unique: Unique, amplitude: np.ndarray, sigma: np.ndarray, factors: np.ndarray) -> _Pairs:
    """Return the pairs. Arguments are those of `site_peaks`."""
    is_known = np.isfinite(amplitude) & np.isfinite(sigma) & np.isfinite(factors)
    plus = np.flatnonzero(is_known & (unique.friedel > 0))
    plus = plus[is_known[unique.mate[plus]]]
    plus = plus[np.argsort(-unique.d[plus], kind="stable")]
    minus = unique.mate[plus]
    if len(plus) == 0:
        raise NoMap("of no acentric reflection both Friedel mates are known")
    return _Pairs(
        hkl=unique.hkl[plus],
        difference=amplitude[plus] - amplitude[minus],
        sigma=np.hypot(sigma[plus], sigma[minus]),
        phase=np.exp(1j * np.angle(factors[plus] + np.conj(factors[minus]))),
    )


def _is_usual(pairs: _Pairs) -> np.ndarray:
    """Return which pairs (pair,) bool have differences neither too large nor too uncertain."""
    n = len(pairs.difference)
    n_shells = int(np.clip(n // PAIRS_PER_SHELL, 1, N_SHELLS))
    size = np.abs(pairs.difference)
    is_usual = np.zeros(n, dtype=bool)
    for rows in np.array_split(np.arange(n), n_shells):
        typical = max(_rms(size[rows]), np.median(pairs.sigma[rows]))
        certain = rows[pairs.sigma[rows] <= NOISIEST * typical]
        is_usual[certain] = size[certain] <= LARGEST * _rms(size[certain])
    return is_usual


def _rms(size: np.ndarray) -> float:
    """Return the r.m.s. of differences of such sizes (n,), which a few large ones do not change."""
    return MAD_TO_SIGMA * float(np.median(size))


def _map(unique: Unique, pairs: _Pairs, is_used: np.ndarray) -> gemmi.FloatGrid:
    """Return the map of some of the pairs in the whole cell. is_used: (pair,) bool."""
    coefficients = pairs.difference * pairs.phase / 2j
    data = gemmi.ComplexAsuData(
        unique.cell,
        unique.space_group,
        pairs.hkl[is_used],
        coefficients[is_used].astype(np.complex64),
    )
    return data.transform_f_phi_to_map(sample_rate=SAMPLE_RATE)


def _mask(grid: gemmi.FloatGrid, xyz: np.ndarray, radius: float) -> gemmi.FloatGrid:
    """Return a grid like another, 1 within a radius, Å, of sites (site, 3) and their mates, else
    0.
    """
    mask = gemmi.FloatGrid(*grid.shape)
    mask.copy_metadata_from(grid)
    for place in xyz:
        position = grid.unit_cell.orthogonalize(gemmi.Fractional(*place))
        mask.set_points_around(position, radius, 1.0)
    mask.symmetrize_max()
    return mask


def _highest_elsewhere(grid: gemmi.FloatGrid, mask: gemmi.FloatGrid) -> tuple[float, np.ndarray]:
    """Return the highest value of the map where the mask is 0, and its place (3,), Å."""
    values = np.where(np.asarray(mask.array) == 0, np.asarray(grid.array), -np.inf)
    point = np.unravel_index(values.argmax(), values.shape)
    place = _basis(grid) @ (np.array(point) / values.shape)

    around = place + _ball(max(grid.spacing))
    around = around[mask.interpolate_position_array(around) == 0]
    heights = _heights(grid, around)
    return heights.max(), around[heights.argmax()]


def _basis(grid: gemmi.FloatGrid) -> np.ndarray:
    """Return the matrix (3, 3) with columns a, b, c, Å, of a map's cell."""
    return np.array(grid.unit_cell.orth.mat.tolist())


def _ball(radius: float) -> np.ndarray:
    """Return the points (n, 3), Å, of a cubic lattice of `STEP_ANG` in a ball, its centre among
    them.
    """
    n = int(radius / STEP_ANG)
    steps = STEP_ANG * np.arange(-n, n + 1)
    points = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    return points[np.linalg.norm(points, axis=1) <= radius]


def _heights(grid: gemmi.FloatGrid, places: np.ndarray) -> np.ndarray:
    """Return the values (n,) of the map at places (n, 3), Å."""
    return np.asarray(grid.interpolate_position_array(places, CUBIC), dtype=np.float64)
