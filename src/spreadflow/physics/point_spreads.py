"""Point spreads of detectors, integrated over pixels."""

import numpy as np
import scipy

FIBRE_SHAPE = 0.65238
"""Width parameter g of the fibre-optic point spread over its FWHM (Holton et al. 2012)."""


def fibre_kernel(fwhm_mm: float, pixel_mm: float, radius_px: int) -> np.ndarray:
    """Return the point spread of a fibre-optic taper, (2 radius + 1)², integrated over pixels and
    cut to a disc; its sum is < 1.

    PSF(r) = g/2π·(g² + r²)^(−3/2), whose integral from 0 to (x, y) is atan(xy / (g·√(g² + x² +
    y²)))/2π.
    """
    g = FIBRE_SHAPE * fwhm_mm / pixel_mm
    corners = np.arange(-radius_px, radius_px + 2) - 0.5
    x, y = np.meshgrid(corners, corners)
    length = np.sqrt(g * g + x * x + y * y)
    integral = np.arctan(x * y / (g * length)) / (2 * np.pi)
    in_pixels = np.diff(np.diff(integral, axis=0), axis=1)
    return _disc(in_pixels)


def gauss_kernel(fwhm_mm: float, pixel_mm: float, radius_px: int) -> np.ndarray:
    """Return a Gaussian point spread, (2 radius + 1)², integrated over pixels and cut to a disc.

    Its sum is less than 1.
    """
    sigma = fwhm_mm / pixel_mm / np.sqrt(8 * np.log(2))
    corners = np.arange(-radius_px, radius_px + 2) - 0.5
    integral = scipy.special.erf(corners / (np.sqrt(2) * sigma)) / 2
    line = np.diff(integral)
    return _disc(np.outer(line, line))


POINT_SPREADS = {"fiber": fibre_kernel, "gauss": gauss_kernel}
"""Point spreads by their names in the configuration."""


def _disc(kernel: np.ndarray) -> np.ndarray:
    """Return a kernel (2 radius + 1)², zero beyond the radius."""
    radius = len(kernel) // 2
    offset = np.arange(-radius, radius + 1)
    return kernel * (offset[:, None] ** 2 + offset**2 <= radius**2)
