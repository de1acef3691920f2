"""From photons at the detector to the numbers it reports: solid angle, polarization, capture; then noise, gain, spread.

Order of the second half as published: Poisson → gain map → point spread → offset → readout noise → rounding.
"""

import jax.numpy as jnp
import numpy as np
from scipy.signal import oaconvolve

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Array, Detector
from spreadflow.physics import geometry

FIBRE_SHAPE = 0.65238
"""width parameter of the fibre-optic point spread over its FWHM (Holton et al. 2012)"""

OPAQUE = 700.0
"""attenuation lengths that let nothing through: exp(−700) of 1, and derivatives are finite, unlike at infinity"""


def depth(detector: Detector):
    """() sensor thickness in attenuation lengths; infinite where everything is captured or one of them is not known."""
    thickness, attenuation = detector.thickness_mm, detector.attenuation_mm
    return jnp.where(thickness * attenuation > 0, thickness / jnp.where(attenuation > 0, attenuation, 1.0), jnp.inf)


def kahn(direction, polarization):
    """Polarization factor ½(1 + cos²2θ − K cos 2ψ sin²2θ) of unit vectors with components (x, y, z) (arrays).

    K = `polarization` is along the lab x axis (Kahn et al. 1982).
    """
    x, y, z = direction
    return 0.5 * (1.0 + z * z - polarization * (x * x - y * y))


def captured(direction, normal, depth):
    """Fraction 1 − exp(−depth/|n·ŝ|) of the photons a sensor captures; unit vectors as components, depth of `depth`."""
    cosine = abs(sum(a * n for a, n in zip(direction, normal, strict=True)))
    return -cosine.__array_namespace__().expm1(-depth / cosine)  # of NumPy or JAX, whichever was given


def efficiency(direction, distance_mm, normal, pixel_mm, *, closest_mm, depth, polarization):
    """Solid angle × captured fraction × Kahn polarization of pixels. Components (x, y, z) are tuples of arrays.

    direction: unit vector from the sample; distance_mm: to the sample; normal: unit normal of the panel (either side);
    closest_mm: of the panel's plane; depth: of `depth`. Ω = pixel²·closest/distance³.
    polarization: K of `kahn`.
    """
    solid_angle = pixel_mm**2 * closest_mm / distance_mm**3
    return solid_angle * kahn(direction, polarization) * captured(direction, normal, depth)


def pixel_map(detector: Detector, polarization: float) -> tuple[np.ndarray, np.ndarray]:
    """Efficiency and sin θ at the centres of all pixels, each (panel, slow, fast) float64."""
    slow, fast = np.meshgrid(*(np.arange(n) + 0.5 for n in detector.shape), indexing="ij")
    both = [_panel_map(detector, p, fast, slow, polarization) for p in range(detector.n_panels)]
    return np.stack([e for e, _ in both]), np.stack([s for _, s in both])


def _panel_map(detector: Detector, panel: int, fast, slow, polarization: float) -> tuple[np.ndarray, np.ndarray]:
    place = geometry.position(detector, np.full(fast.shape, panel), fast, slow)
    distance = np.linalg.norm(place, axis=-1)
    direction = place / distance[..., None]
    sine = np.linalg.norm(direction - geometry.S0, axis=-1) / 2
    made = efficiency(
        tuple(np.moveaxis(direction, -1, 0)),
        distance,
        geometry.normals(detector)[panel],
        detector.pixel_mm,
        closest_mm=geometry.distances_mm(detector)[panel],
        depth=depth(detector),
        polarization=polarization,
    )
    return np.asarray(made), sine


def gain_map(rng: np.random.Generator, shape: tuple[int, ...], spread: float) -> np.ndarray:
    """float32 gains of mean 1: the calibration error of each pixel, the same for all shots."""
    return 1.0 + np.float32(spread) * rng.standard_normal(shape, dtype=np.float32)


def fibre_kernel(fwhm_mm: float, pixel_mm: float, radius_px: int) -> np.ndarray:
    """(2 radius + 1)² point spread of a fibre-optic taper, integrated over pixels and cut to a disc; its sum is < 1.

    PSF(r) = g/2π·(g² + r²)^(−3/2), whose integral from 0 to (x, y) is atan(xy / (g·√(g² + x² + y²)))/2π.
    """
    g = FIBRE_SHAPE * fwhm_mm / pixel_mm
    edge = np.arange(-radius_px, radius_px + 2) - 0.5
    x, y = np.meshgrid(edge, edge)
    corner = np.arctan(x * y / (g * np.sqrt(g * g + x * x + y * y))) / (2 * np.pi)
    kernel = np.diff(np.diff(corner, axis=0), axis=1)
    at = np.arange(-radius_px, radius_px + 1)
    return kernel * (at[:, None] ** 2 + at**2 <= radius_px**2)


def spread_out(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Images (panel, slow, fast) after a point spread; what the kernel leaves out goes evenly over the panel."""
    lost = (1.0 - kernel.sum()) * image.mean(axis=(1, 2), keepdims=True)
    return oaconvolve(image, kernel[None].astype(image.dtype), mode="same", axes=(1, 2)) + lost.astype(image.dtype)


def read_out(
    rng: np.random.Generator,
    expected: Array,
    gain: np.ndarray,
    *,
    kernel: np.ndarray | None,
    readout_adu: float,
    offset_adu: float,
    saturation_adu: int,
) -> np.ndarray:
    """(panel, slow, fast) int32 ADU of one exposure to `expected` photons.

    kernel: of `fibre_kernel`, or None. A pixel beyond `saturation_adu` reads one more than that.
    """
    image: np.ndarray = np.asarray(rng.poisson(expected), dtype=np.float32 if kernel is None else np.float64)
    image *= gain
    if kernel is not None:
        image = spread_out(image, kernel)
    image += np.float32(readout_adu) * rng.standard_normal(image.shape, dtype=np.float32) + np.float32(offset_adu)
    np.rint(image, out=image)
    saturated = image > saturation_adu
    image[saturated] = 0
    out = image.astype(np.int32)
    out[saturated] = saturation_adu + 1
    return out
