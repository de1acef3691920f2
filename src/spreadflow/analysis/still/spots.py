"""Spot finding: pixels that are brighter and more dispersed than the noise of their neighbourhood.

The dispersion test of DIALS (Winter et al. 2018, Acta Cryst. D74, 85) with a readout term, applied
twice: the second time with the pixels found first left out of the window sums, so that a strong
spot shadows neither its own flanks nor a weak neighbour (the idea of DIALS' `dispersion_extended`).

In the window of (2k+1)² pixels around a pixel, with n valid pixels of mean μ ≥ 0 and variance v,
the noise is V = gain·μ + readout². The pixel with c photons is strong where

    v > V (1 + σ_b √(2/(n−1) + gain³μ/(nV²)))   and   c > μ + σ_s √V   and   c > global_threshold.

The second term under the root is the kurtosis of a Poisson distribution: without it a background of
0.1 photons makes spots of its own.

A cheap bound on μ, from the box sum of all pixels, leaves few pixels to test; those are tested one
by one in float64 with two-pass variances, so no sum of squares overflows and nothing leaks out of a
window.
"""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from spreadflow.models import Detector, Spots
from spreadflow.physics import geometry
from spreadflow.units import wavelength

_BAND = 48  # rows per box sum: the band stays in the cache
_CHUNK = 8192  # windows gathered at a time


class _Frame:
    """All panels in one flat array with a margin around each: windows are constant offsets into
    it.
    """

    def __init__(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        kernel: tuple[int, int],
        gain: float,
        readout: float,
    ):
        self.kernel, self.gain, self.readout2 = tuple(kernel), gain, readout**2
        k_slow, k_fast = self.kernel
        panels, n_slow, n_fast = image.shape
        self.shape = (panels, n_slow + 2 * k_slow, n_fast + 2 * k_fast)
        inside = np.s_[:, k_slow : k_slow + n_slow, k_fast : k_fast + n_fast]
        padded = np.zeros(self.shape, dtype=np.float32)
        np.copyto(padded[inside], image, where=mask)
        valid = np.zeros(self.shape, dtype=bool)
        valid[inside] = mask
        self.padded, self.pixels, self.valid = padded, padded.ravel(), valid.ravel()
        self.row = self.shape[2]
        self.window = self.offsets(k_slow, k_fast)
        self.ring = self.offsets(1, 1)

    def offsets(self, half_slow: int, half_fast: int) -> np.ndarray:
        """Return offsets of a box into the flat array."""
        slow, fast = np.mgrid[-half_slow : half_slow + 1, -half_fast : half_fast + 1]
        return (slow * self.row + fast).ravel()

    def coordinates(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return panel and pixel coordinates (fast, slow) of the centres of flat positions."""
        panel, slow, fast = np.unravel_index(at, self.shape)
        return panel.astype(np.int32), fast - self.kernel[1] + 0.5, slow - self.kernel[0] + 0.5

    def grow(self, at: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Return sorted valid positions within a box around positions."""
        near = np.unique((at[:, None] + offsets).ravel())
        near = near[(near >= 0) & (near < self.valid.size)]
        return near[self.valid[near]]

    def noise(self, mean: np.ndarray) -> np.ndarray:
        """Return variance of a pixel that expects `mean` photons."""
        return np.maximum(self.gain * np.maximum(mean, 0.0) + self.readout2, 1e-9)

    def statistics(
        self, at: np.ndarray, use: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return number, mean and variance, each (at,) float64, of the pixels in `use` in the
        window around positions.
        """
        out = np.zeros((3, len(at)))
        for start in range(0, len(at), _CHUNK):
            index = at[start : start + _CHUNK, None] + self.window
            inside = use[index]
            values = self.pixels[index].astype(np.float64)
            n = inside.sum(axis=1)
            mean = np.where(inside, values, 0.0).sum(axis=1) / np.maximum(n, 1)
            square = np.where(inside, values - mean[:, None], 0.0)
            variance = (square * square).sum(axis=1) / np.maximum(n - 1, 1)
            out[:, start : start + _CHUNK] = n, mean, variance
        return out[0], out[1], out[2]


def find(
    image: np.ndarray,
    mask: np.ndarray,
    *,
    gain: float = 1.0,
    sigma_background: float = 6.0,
    sigma_strong: float = 3.0,
    global_threshold: float = 0.0,
    kernel: tuple[int, int] = (4, 4),
    min_pixels: int = 2,
    max_pixels: int = 200,
    readout_photons: float = 1.0,
) -> Spots:
    """Return spots of one shot, by panel, then slow, then fast.

    image: (panel, slow, fast) float32 photons, pedestal subtracted; mask: the same shape, True =
    valid. gain: variance over mean of the photons. kernel: half sizes (slow, fast) of the window.
    min_pixels, max_pixels: strong pixels of a spot. readout_photons: r.m.s. readout noise of a
    pixel.

    Centroid: background-subtracted centre of mass over the strong pixels and the ring of one pixel
    around them; background: a plane through the windows around the strong pixels, without the
    strong pixels and rings of any spot.
    """
    frame = _Frame(image, mask, kernel, gain, readout_photons)
    maybe = _candidates(frame, sigma_strong, global_threshold)
    strong = _strong(frame, maybe, frame.valid, sigma_background, sigma_strong, global_threshold)
    quiet = frame.valid.copy()
    quiet[frame.grow(strong, frame.ring)] = False
    shadow = frame.grow(strong, frame.window)
    strong = np.union1d(
        strong, _strong(frame, shadow, quiet, sigma_background, sigma_strong, global_threshold)
    )
    spot = _components(frame, strong)
    size = np.bincount(spot)
    keep = (size >= min_pixels) & (size <= max_pixels)
    quiet[frame.grow(strong, frame.ring)] = False
    return _measure(frame, strong[keep[spot]], (np.cumsum(keep) - 1)[spot[keep[spot]]], quiet)


def resolution(detector: Detector, energy_ev: float, spots: Spots) -> np.ndarray:
    """Return (spot,) d in Å of each spot at one photon energy."""
    s1 = geometry.direction(detector, spots.panel, spots.fast, spots.slow)
    with np.errstate(divide="ignore"):
        return wavelength(energy_ev) / np.linalg.norm(s1 - geometry.S0, axis=-1)


def select(spots: Spots, keep: np.ndarray) -> Spots:
    """Return the spots for which `keep` (spot,) is True."""
    return Spots(*(np.asarray(field)[keep] for field in spots))


def _box_sum(values: np.ndarray, half: int, axis: int) -> np.ndarray:
    """Return sums of 2·half+1 neighbours, `axis` shorter by 2·half. Only additions: nothing
    cancels, nothing leaks.
    """
    width = 2 * half + 1
    length = values.shape[axis] - width + 1

    def cut(array: np.ndarray, start: int, size: int) -> np.ndarray:
        return array[start : start + size] if axis == 0 else array[:, start : start + size]

    out = cut(values, 0, length).copy()
    power = values
    offset = 1
    step = 1  # the width is odd
    while 2 * step <= width:
        size = power.shape[axis] - step
        power = cut(power, 0, size) + cut(power, step, size)
        step *= 2
        if width & step:
            out += cut(power, offset, length)
            offset += step
    return out


def _in_reach(n: int, half: int) -> np.ndarray:
    """Return (n,) how many of n pixels in a row are at most `half` away from each."""
    at = np.arange(n)
    return (np.minimum(at, half) + np.minimum(at[::-1], half) + 1).astype(np.float32)


def _candidates(frame: _Frame, sigma_strong: float, global_threshold: float) -> np.ndarray:
    """Return flat positions of all pixels that can be strong.

    Masked pixels count as zeros in the window's part on the panel: the mean comes out too small,
    never too large.
    """
    k_slow, k_fast = frame.kernel
    width = frame.row - 2 * frame.kernel[1]
    n_slow, n_fast = (
        _in_reach(n - 2 * k, k) for n, k in zip(frame.shape[1:], frame.kernel, strict=True)
    )
    parts = []
    for panel in range(frame.shape[0]):
        for top in range(0, frame.shape[1] - 2 * k_slow, _BAND):
            band = frame.padded[panel, top : top + _BAND + 2 * k_slow]
            mean = _box_sum(_box_sum(band, k_slow, 0), k_fast, 1)
            mean /= n_slow[top : top + len(mean), None] * n_fast
            np.maximum(mean, 0.0, out=mean)
            limit = mean * np.float32(frame.gain)
            limit += np.float32(frame.readout2)
            np.sqrt(limit, out=limit)
            limit *= np.float32(sigma_strong)
            limit += mean
            np.maximum(limit, np.float32(global_threshold), out=limit)
            middle = band[k_slow : k_slow + len(mean), k_fast : k_fast + width]
            slow, fast = np.divmod(np.flatnonzero(middle > limit), width)
            parts.append((panel * frame.shape[1] + top + k_slow + slow) * frame.row + fast + k_fast)
    found = np.concatenate(parts)
    return found[frame.valid[found]]


def _strong(
    frame: _Frame, at: np.ndarray, use: np.ndarray, sigma_b: float, sigma_s: float, floor: float
) -> np.ndarray:
    """Return the positions that are strong against the pixels in `use`.

    Pixels that are themselves not in `use` (already known, or beside a known one) need not pass the
    dispersion test.
    """
    at = at[frame.pixels[at] > floor]
    n, mean, variance = frame.statistics(at, use)
    noise = frame.noise(mean)
    spread = np.sqrt(
        2.0 / np.maximum(n - 1, 1)
        + frame.gain**2 * (noise - frame.readout2) / (np.maximum(n, 1) * noise**2)
    )
    dispersed = (variance > noise * (1.0 + sigma_b * spread)) | ~use[at]
    return at[
        dispersed & (n > 1) & (frame.pixels[at] > np.maximum(mean, 0.0) + sigma_s * np.sqrt(noise))
    ]


def _components(frame: _Frame, strong: np.ndarray) -> np.ndarray:
    """Return number of the connected component (8 neighbours) of each of the sorted positions;
    ordered by first pixel.
    """
    links = []
    for offset in (1, frame.row - 1, frame.row, frame.row + 1):
        place = np.searchsorted(strong, strong + offset)
        near = np.append(strong, -1)[place] == strong + offset
        links.append(np.array([np.flatnonzero(near), place[near]]))
    first, second = np.concatenate(links, axis=1)
    graph = coo_matrix(
        (np.ones(len(first), dtype=bool), (first, second)), shape=(len(strong), len(strong))
    )
    return connected_components(graph, directed=False)[1]


def _planes(
    frame: _Frame, strong: np.ndarray, spot: np.ndarray, count: int, quiet: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return background of each spot: the plane through the quiet pixels of the windows around its
    strong pixels.

    Returns the value at the centre and the slopes along fast and slow (spot, 3), the centre (fast,
    slow) (spot, 2) of the strong pixels, and the number of quiet pixels (spot,), each counted once
    per window. A level background would pull centroids up the slopes of a diffuse ring. Slopes are
    damped where few pixels tell them.
    """
    _, fast, slow = frame.coordinates(strong)
    size = np.maximum(np.bincount(spot, minlength=count), 1)
    center = np.stack([np.bincount(spot, x, count) / size for x in (fast, slow)], axis=1)
    k_slow, k_fast = frame.kernel
    ds, df = (
        x.ravel().astype(np.float64) for x in np.mgrid[-k_slow : k_slow + 1, -k_fast : k_fast + 1]
    )
    ones = np.ones(len(df))
    sums = np.zeros((len(strong), 9))
    for start in range(0, len(strong), _CHUNK):
        index = strong[start : start + _CHUNK, None] + frame.window
        inside = quiet[index].astype(np.float64)
        values = inside * frame.pixels[index]
        rows = slice(start, start + _CHUNK)
        sums[rows, :6] = inside @ np.stack([ones, df, ds, df * df, df * ds, ds * ds], axis=1)
        sums[rows, 6:] = values @ np.stack([ones, df, ds], axis=1)
    n, f, s, ff, fs, ss, v, fv, sv = sums.T
    a, b = (np.stack([fast, slow], axis=1) - center[spot]).T
    moments = [n, f + a * n, s + b * n, ff + 2 * a * f + a * a * n, fs + a * s + b * f + a * b * n]
    moments += [ss + 2 * b * s + b * b * n, v, fv + a * v, sv + b * v]
    n, f, s, ff, fs, ss, v, fv, sv = np.array([np.bincount(spot, x, count) for x in moments])
    matrix = np.moveaxis(np.array([[n, f, s], [f, ff, fs], [s, fs, ss]]), -1, 0)
    matrix = matrix + np.maximum(n, 1.0)[:, None, None] * np.diag([1e-9, 0.05, 0.05])
    return np.linalg.solve(matrix, np.stack([v, fv, sv], axis=-1)[..., None])[..., 0], center, n


def _measure(frame: _Frame, strong: np.ndarray, spot: np.ndarray, quiet: np.ndarray) -> Spots:
    """Return background, intensity and centre of mass of each spot.

    Variance of a coordinate: Σ σ_i² (x_i − x)² / I², plus the sampling error of a spot narrower
    than its pixels: of the 1/12 px² that one pixel alone leaves unknown, e^(−4π² m₂) remains when
    the second moment is m₂ px².
    """
    count = int(spot.max()) + 1 if len(spot) else 0
    plane, center, n_background = _planes(frame, strong, spot, count, quiet)
    background = plane[:, 0]
    n_pixels = np.bincount(spot, minlength=count)

    near = (strong[:, None] + frame.ring).ravel()
    owner = np.repeat(spot, len(frame.ring))
    own = (
        np.repeat(np.arange(len(strong)), len(frame.ring)) * len(frame.ring) + len(frame.ring) // 2
    )
    order = np.lexsort((owner, near != near[own], near))
    near = near[order]
    owner = owner[order]
    first = np.append(True, near[1:] != near[:-1])[: len(near)] & frame.valid[near]
    near = near[first]
    owner = owner[first]

    panel, fast, slow = frame.coordinates(near)
    value = frame.pixels[near].astype(np.float64)
    away = np.stack([np.ones(len(near)), fast - center[owner, 0], slow - center[owner, 1]], axis=1)
    signal = value - (plane[owner] * away).sum(axis=1)
    variance = frame.noise(value)
    intensity = np.bincount(owner, signal, count)
    pixels = np.bincount(owner, minlength=count)
    per_pixel = n_background / np.maximum(n_pixels, 1)
    total = np.bincount(owner, variance, count) + pixels**2 * frame.noise(background) / np.maximum(
        per_pixel, 1
    )
    good = (intensity > 0) & (n_background > 0)
    scale = np.where(good, intensity, 1.0)

    def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        centre = np.bincount(owner, signal * x, count) / scale
        away2 = (x - centre[owner]) ** 2
        error = np.bincount(owner, variance * away2, count) / scale**2
        width = np.maximum(np.bincount(owner, signal * away2, count) / scale, 0.0)
        return centre, error + np.exp(-4.0 * np.pi**2 * width) / 12.0

    f, var_f = moments(fast)
    s, var_s = moments(slow)
    of_spot = np.zeros(count, dtype=np.int32)
    of_spot[owner] = panel
    spots = Spots(of_spot, f, s, var_f, var_s, intensity, np.sqrt(total), n_pixels.astype(np.int32))
    return select(spots, good)
