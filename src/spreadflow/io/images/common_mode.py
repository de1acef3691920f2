"""The common mode: what all pixels of a region that is read out together are off by in one image.

It is where the peak of the dark pixels, those without a photon, lies. Photons only add to a pixel,
so that the peak is looked for where fewer than half a photon were counted, and believed only where
it stands out: the dark pixels are many, more than those with one photon, and next to nothing lies
below them. A region without such a peak, as one with several photons in each pixel, stays as it is.
The readout noise has to be small beside a photon: a third of it at most.
"""

import numpy as np

REACH = 0.5
"""Half width of the window in which dark pixels lie around their peak, photons."""

LARGEST = 1.0
"""Largest common mode that is believed, photons."""

N_STEPS = 8
"""Times that the window is moved to the median of the pixels in it."""

SETTLED = 1e-3
"""Move of the window that counts as none, photons."""

LEAST_SHARE = 0.25
"""Share of a region's pixels that are dark, at least."""

LEAST_NUMBER = 50
"""Dark pixels of a region, at least: of fewer the peak is not known."""

MOST_BELOW = 0.1
"""Share of a region's pixels that lie below the dark ones, at most."""


def subtract(image: np.ndarray, valid: np.ndarray, region: tuple[int, int]) -> None:
    """Subtract the common mode of each region of an image, in place, where there is a peak of dark
    pixels.

    image: (panel, slow, fast) photons; valid: likewise bool, the pixels that count. region: (slow,
    fast) px, from the panel's first pixel on; what is left at its end is a smaller region.
    """
    n_slow, n_fast = region
    for panel, panel_valid in zip(image, valid, strict=True):
        for slow in range(0, panel.shape[0], n_slow):
            for fast in range(0, panel.shape[1], n_fast):
                here = np.s_[slow : slow + n_slow, fast : fast + n_fast]
                peak = dark_peak(panel[here][panel_valid[here]])
                if peak is not None:
                    panel[here] -= np.float32(peak)


def dark_peak(photons: np.ndarray) -> float | None:
    """Return where the peak of the dark pixels among some pixels lies, photons; None where there is
    none.
    """
    centre = _first_peak(photons)
    for _ in range(N_STEPS):
        dark = photons[np.abs(photons - centre) < REACH]
        if len(dark) < LEAST_NUMBER:
            return None
        before = centre
        centre = float(np.median(dark))
        if abs(centre - before) < SETTLED:
            break
    one_photon = np.count_nonzero(np.abs(photons - centre - 1.0) < REACH)
    n_below = np.count_nonzero(photons <= centre - REACH)
    is_peak = len(dark) >= LEAST_SHARE * len(photons) and len(dark) >= one_photon
    is_lowest = n_below <= MOST_BELOW * len(photons)
    return centre if is_peak and is_lowest and abs(centre) <= LARGEST else None


def _first_peak(photons: np.ndarray) -> float:
    """Return the middle of the fullest of the windows that a common mode may move to, photons."""
    edges = np.arange(-LARGEST - REACH, LARGEST + 2 * REACH, REACH)
    counts = np.histogram(photons, edges)[0]
    pairs = counts[1:] + counts[:-1]
    return float(edges[1 + int(pairs.argmax())])
