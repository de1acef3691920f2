"""Spots: connected strong pixels, their positions and intensities above a plane of background."""

from typing import NamedTuple

import numpy as np
import scipy

from spreadflow.analysis.still import strong_loops, strong_pixels
from spreadflow.analysis.still.strong_pixels import DispersionThreshold, Panels
from spreadflow.models import Detector, Spots
from spreadflow.physics import geometry
from spreadflow.units import wavelength

SLOPE_RIDGE = 0.05
"""Restraint of a background's slopes towards zero, px² per background pixel: far less than the
second moment of a window, so that only slopes which few pixels determine are damped.
"""

LEVEL_RIDGE = 1e-9
"""Restraint of a background's level, per background pixel: it only keeps the equations of a spot
without background pixels from being singular.
"""


def find(
    image: np.ndarray,
    mask: np.ndarray,
    threshold: DispersionThreshold = strong_pixels.DEFAULT_THRESHOLD,
    relative_gain: np.ndarray | None = None,
    *,
    min_pixels: int = 2,
    max_pixels: int = 200,
) -> Spots:
    """Return the spots of one shot, ordered by panel, then slow, then fast.

    image: (panel, slow, fast) float32 photons, pedestal subtracted; mask: the same shape, True =
    valid. relative_gain: likewise, ADU per photon over their median; None = 1. min_pixels,
    max_pixels: how many strong pixels a spot has.

    The centroid is the background-subtracted centre of mass over the strong pixels and the ring of
    one pixel around them; the background is a plane through the windows around the strong pixels,
    without the strong pixels and rings of any spot.
    """
    panels = Panels(image, mask, threshold, relative_gain)
    strong, role = strong_pixels.find(panels)

    spot = _components(panels, strong)
    size = np.bincount(spot)
    is_spot = (size >= min_pixels) & (size <= max_pixels)
    in_spot = is_spot[spot]
    number = np.cumsum(is_spot) - 1
    return _measure(panels, strong[in_spot], number[spot[in_spot]], role)


def resolution(detector: Detector, energy_ev: float, spots: Spots) -> np.ndarray:
    """Return d (spot,), Å, of each spot at one photon energy."""
    s1 = geometry.direction(detector, spots.panel, spots.fast, spots.slow)
    q_wavelength = np.linalg.norm(s1 - geometry.S0, axis=-1)
    with np.errstate(divide="ignore"):
        return wavelength(energy_ev) / q_wavelength


def select(spots: Spots, keep: np.ndarray) -> Spots:
    """Return the spots for which `keep` (spot,) is True."""
    return Spots(*(np.asarray(column)[keep] for column in spots))


def _components(panels: Panels, strong: np.ndarray) -> np.ndarray:
    """Return the number of the connected component (8 neighbours) of each of the sorted positions;
    components are ordered by their first pixel.
    """
    n_pixels = len(strong)
    links = []
    for offset in (1, panels.row_length - 1, panels.row_length, panels.row_length + 1):
        wanted = strong + offset
        neighbour = np.searchsorted(strong, wanted)
        is_strong = np.append(strong, -1)[neighbour] == wanted
        pixel = np.flatnonzero(is_strong)
        links.append(np.array([pixel, neighbour[is_strong]]))

    first, second = np.concatenate(links, axis=1)
    is_linked = np.ones(len(first), dtype=bool)
    graph = scipy.sparse.coo_matrix((is_linked, (first, second)), shape=(n_pixels, n_pixels))
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1]


# ---------------------------------------------------------------- backgrounds


class _Background(NamedTuple):
    """The background of each spot: a plane."""

    plane: np.ndarray
    """(spot, 3) photons at the centre, slopes along fast and slow in photons/px"""
    centre: np.ndarray
    """(spot, 2) fast, slow of the middle of the strong pixels, px"""
    n_pixels: np.ndarray
    """(spot,) background pixels, each counted once per window that it lies in"""

    def level(self, panels: Panels, pixels: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """Return the photons (pixel,) of the background at positions, of the spots there."""
        _, fast, slow = panels.coordinates(pixels)
        from_centre = np.stack([fast, slow], axis=1) - self.centre[owner]
        one = np.ones((len(pixels), 1))
        design = np.concatenate([one, from_centre], axis=1)
        return (self.plane[owner] * design).sum(axis=1)


class _Moments(NamedTuple):
    """Sums over background pixels, of coordinates from an origin and of photons; each (n,)."""

    number: np.ndarray
    fast: np.ndarray
    slow: np.ndarray
    fast_fast: np.ndarray
    fast_slow: np.ndarray
    slow_slow: np.ndarray
    photons: np.ndarray
    photons_fast: np.ndarray
    photons_slow: np.ndarray


def _backgrounds(
    panels: Panels,
    strong: np.ndarray,
    spot: np.ndarray,
    n_spots: int,
    role: np.ndarray,
) -> _Background:
    """Return the planes through the background pixels of the windows around each spot's strong
    pixels.

    strong: (pixel,) positions; spot: (pixel,) number of their spot; role: (panel, slow, fast). A
    level background would pull centroids up the slopes of a diffuse ring. Slopes are damped where
    few pixels determine them.
    """
    _, fast, slow = panels.coordinates(strong)

    size = np.maximum(np.bincount(spot, minlength=n_spots), 1)
    totals = [np.bincount(spot, coordinate, n_spots) for coordinate in (fast, slow)]
    centre = np.stack([total / size for total in totals], axis=1)

    sums = strong_loops.window_moments(panels.frame, panels.settings, role, strong)
    moments = _Moments(*sums.T)
    from_centre = np.stack([fast, slow], axis=1) - centre[spot]
    moments = _moved(moments, *from_centre.T)
    of_spots = _Moments(*(np.bincount(spot, column, n_spots) for column in moments))
    return _Background(_plane(of_spots), centre, of_spots.number)


def _moved(moments: _Moments, a: np.ndarray, b: np.ndarray) -> _Moments:
    """Return the moments about an origin from which the present one is (a, b) (fast, slow) away."""
    n, f, s, ff, fs, ss, v, fv, sv = moments
    return _Moments(
        number=n,
        fast=f + a * n,
        slow=s + b * n,
        fast_fast=ff + 2 * a * f + a * a * n,
        fast_slow=fs + a * s + b * f + a * b * n,
        slow_slow=ss + 2 * b * s + b * b * n,
        photons=v,
        photons_fast=fv + a * v,
        photons_slow=sv + b * v,
    )


def _plane(moments: _Moments) -> np.ndarray:
    """Return the least squares planes (n, 3): photons at the origin, slopes along fast and slow."""
    n, f, s, ff, fs, ss, *photons = moments
    rows = [
        [n, f, s],
        [f, ff, fs],
        [s, fs, ss],
    ]
    matrix = np.moveaxis(np.array(rows), -1, 0)

    ridge = np.diag([LEVEL_RIDGE, SLOPE_RIDGE, SLOPE_RIDGE])
    n_pixels = np.maximum(n, 1.0)
    matrix = matrix + n_pixels[:, None, None] * ridge

    right = np.stack(photons, axis=-1)
    solution = np.linalg.solve(matrix, right[..., None])
    return solution[..., 0]


# ---------------------------------------------------------------- spots


def _measure(panels: Panels, strong: np.ndarray, spot: np.ndarray, role: np.ndarray) -> Spots:
    """Return position and intensity of each spot whose intensity above background is positive.

    strong: (pixel,) positions; spot: (pixel,) number of their spot, from 0; role:
    (panel, slow, fast).
    """
    n_spots = int(spot.max()) + 1 if len(spot) else 0
    background = _backgrounds(panels, strong, spot, n_spots, role)

    pixels, owner = _footprints(panels, strong, spot)
    panel, fast, slow = panels.coordinates(pixels)
    photons = panels.photons(pixels)
    variance = panels.noise(photons, pixels)
    signal = photons - background.level(panels, pixels, owner)

    intensity = np.bincount(owner, signal, n_spots)
    is_good = (intensity > 0) & (background.n_pixels > 0)

    n_strong = np.bincount(spot, minlength=n_spots)
    n_summed = np.bincount(owner, minlength=n_spots)
    from_pixels = np.bincount(owner, variance, n_spots)
    from_background = _background_variance(panels, background, strong, spot, n_summed)

    divisor = np.where(is_good, intensity, 1.0)
    weighting = (owner, signal, variance, divisor)
    fast_centre, fast_variance = _centre_of_mass(fast, *weighting)
    slow_centre, slow_variance = _centre_of_mass(slow, *weighting)
    centre = np.stack([fast_centre, slow_centre], axis=1)
    lost, shift = _lost(panels, background, strong, spot, centre, divisor)

    spot_panel = np.zeros(n_spots, dtype=np.int32)
    spot_panel[owner] = panel
    spots = Spots(
        panel=spot_panel,
        fast=fast_centre,
        slow=slow_centre,
        variance_fast=fast_variance + shift[:, 0] ** 2,
        variance_slow=slow_variance + shift[:, 1] ** 2,
        intensity=intensity,
        sigma=np.sqrt(from_pixels + from_background + lost**2),
        n_pixels=n_strong.astype(np.int32),
    )
    return select(spots, is_good)


def _footprints(
    panels: Panels, strong: np.ndarray, spot: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the pixels that are summed, strong ones and those around them,
    and the spot of each.

    No pixel is summed twice: it belongs to the spot in which it is strong, otherwise to the first
    of those that it neighbours.
    """
    n_ring = len(panels.ring)
    pixels = (strong[:, None] + panels.ring).ravel()
    owner = np.repeat(spot, n_ring)
    is_neighbour = pixels != np.repeat(strong, n_ring)

    order = np.lexsort((owner, is_neighbour, pixels))
    pixels = pixels[order]
    owner = owner[order]

    is_first = np.append(True, pixels[1:] != pixels[:-1])[: len(pixels)]
    is_summed = is_first & panels.is_valid(pixels)
    return pixels[is_summed], owner[is_summed]


def _lost(
    panels: Panels,
    background: _Background,
    strong: np.ndarray,
    spot: np.ndarray,
    centre: np.ndarray,
    intensity: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the photons (spot,) that pixels beside strong ones may hold which are masked or beyond
    the panel's edge, and how far these would move the centre (spot, 2), px.

    Each is taken to hold as much as the strong pixels that it touches, on average. strong, spot:
    positions of the strong pixels, and the spot of each; intensity: (spot,) not zero.
    """
    n_spots = len(intensity)
    ring = strong[:, None] + panels.ring
    touching, place = np.nonzero(~panels.is_valid(ring))
    keys = spot[touching] * panels.size + ring[touching, place]
    keys, missing = np.unique(keys, return_inverse=True)
    owner, position = np.divmod(keys, panels.size)

    beside = strong[touching]
    signal = panels.photons(beside) - background.level(panels, beside, spot[touching])
    signal = np.bincount(missing, signal) / np.maximum(np.bincount(missing), 1)
    signal = np.maximum(signal, 0.0)
    _, fast, slow = panels.coordinates(position)
    lever = np.stack([fast, slow], axis=1) - centre[owner]

    lost = np.bincount(owner, signal, n_spots)
    moments = [np.bincount(owner, signal * along, n_spots) for along in lever.T]
    return lost, np.stack(moments, axis=1) / (np.abs(intensity) + lost)[:, None]


def _background_variance(
    panels: Panels,
    background: _Background,
    strong: np.ndarray,
    spot: np.ndarray,
    n_summed: np.ndarray,
) -> np.ndarray:
    """Return the variance (spot,), photons², that the background's level brings to an intensity.

    strong, spot: positions of the strong pixels, and the spot of each; n_summed: (spot,)
    pixels that are summed. The windows of a spot's strong pixels overlap, so that each background
    pixel was counted about n_strong times.
    """
    n_strong = np.bincount(spot, minlength=len(n_summed))
    of_spot = np.zeros(len(n_summed), dtype=np.int64)
    of_spot[spot] = strong
    n_independent = background.n_pixels / np.maximum(n_strong, 1)
    pixel_variance = panels.noise(background.plane[:, 0], of_spot)
    return n_summed**2 * pixel_variance / np.maximum(n_independent, 1)


def _centre_of_mass(
    x: np.ndarray,
    owner: np.ndarray,
    signal: np.ndarray,
    variance: np.ndarray,
    intensity: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of a coordinate, weighted by the signal, and its variance; each (spot,).

    x, owner, signal, variance: (pixel,) coordinate, spot, photons above background and their
    variance σ². intensity: (spot,) Σ signal, not zero.

    The variance is Σ σ² (x − x̄)² / I², plus the sampling error of a spot narrower than its pixels:
    of the 1/12 px² that one pixel alone leaves unknown, e^(−4π² m₂) remains when the second moment
    is m₂ px².
    """
    n_spots = len(intensity)
    centre = np.bincount(owner, signal * x, n_spots) / intensity
    distance2 = (x - centre[owner]) ** 2
    from_counting = np.bincount(owner, variance * distance2, n_spots) / intensity**2

    second_moment = np.bincount(owner, signal * distance2, n_spots) / intensity
    width2 = np.maximum(second_moment, 0.0)
    from_sampling = np.exp(-4.0 * np.pi**2 * width2) / 12.0
    return centre, from_counting + from_sampling
