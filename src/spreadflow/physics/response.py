"""What part of the photons scattered by a pixel's solid angle it captures: polarization, sensor."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Detector
from spreadflow.physics import geometry, parallax

OPAQUE = 700.0
"""Thickness, in attenuation lengths, that lets nothing through: exp(−700) is still a number, and
derivatives are finite, unlike at infinity.
"""


def depth(detector: Detector):
    """Return the sensor's thickness in attenuation lengths, (); `OPAQUE` where everything is
    captured or one of the two is not known.
    """
    thickness = detector.thickness_mm
    attenuation = detector.attenuation_mm
    return jnp.where(
        thickness * attenuation > 0,
        thickness / jnp.where(attenuation > 0, attenuation, 1.0),
        OPAQUE,
    )


def kahn(direction, polarization):
    """Return the polarization factor ½(1 + cos²2θ − K cos 2ψ sin²2θ) of unit vectors with
    components (x, y, z) (arrays).

    K = `polarization` is along the lab x axis (Kahn et al. 1982).
    """
    x, y, z = direction
    return 0.5 * (1.0 + z * z - polarization * (x * x - y * y))


def captured(direction, normal, depth):
    """Return the fraction 1 − exp(−depth/|n·ŝ|) of the photons that a sensor captures; unit vectors
    as components, depth of `depth`.
    """
    cosine = abs(sum(a * n for a, n in zip(direction, normal, strict=True)))
    numpy_or_jax = cosine.__array_namespace__()
    return -numpy_or_jax.expm1(-depth / cosine)


def efficiency(direction, distance_mm, normal, pixel_mm, *, closest_mm, depth, polarization):
    """Return solid angle × captured fraction × Kahn polarization of pixels, Ω =
    pixel²·closest/distance³ in sr. Vectors are tuples of arrays, their components (x, y, z).

    direction: unit vector from the sample; distance_mm: to the sample; normal: unit normal of the
    panel (either side); closest_mm: from the sample to the panel's plane; depth: of `depth`;
    polarization: K of `kahn`.
    """
    solid_angle = pixel_mm**2 * closest_mm / distance_mm**3
    return solid_angle * kahn(direction, polarization) * captured(direction, normal, depth)


def pixel_map(
    detector: Detector, polarization: float, dtype: DTypeLike = np.float64
) -> tuple[np.ndarray, np.ndarray]:
    """Return efficiency and sin θ at the centres of all pixels, each (panel, slow, fast); computed
    in float64.
    """
    normals = geometry.normals(detector)
    photons_per_flux, sine = _pixel_map(
        detector._replace(shape=(0, 0)),
        normals,
        (detector.origin_mm * normals).sum(axis=-1),
        polarization,
        shape=detector.shape,
        dtype=np.dtype(dtype),
    )
    return np.asarray(photons_per_flux), np.asarray(sine)


@partial(jax.jit, static_argnames=("shape", "dtype"))
def _pixel_map(detector: Detector, normals, height_mm, polarization, *, shape, dtype):
    """Return `pixel_map` in one pass over the pixels, without temporary maps. height_mm: (panel,)
    of the panels over the sample, along their normals.
    """

    def by_component(vectors):
        return [vectors[:, j, None, None] for j in range(3)]

    n_slow, n_fast = shape
    slow_mm = (jnp.arange(n_slow) + 0.5) * detector.pixel_mm
    fast_mm = (jnp.arange(n_fast) + 0.5) * detector.pixel_mm
    origin = by_component(detector.origin_mm)
    fast_axis = by_component(detector.fast)
    slow_axis = by_component(detector.slow)
    axes = zip(origin, fast_axis, slow_axis, strict=True)
    surface = [corner + fast * fast_mm + slow * slow_mm[:, None] for corner, fast, slow in axes]
    normal = by_component(normals)
    position, height = parallax.deepened(detector, surface, normal, height_mm[:, None, None])
    distance = sum(x * x for x in position) ** 0.5
    direction = [x / distance for x in position]
    photons_per_flux = efficiency(
        direction,
        distance,
        normal,
        detector.pixel_mm,
        closest_mm=abs(height),
        depth=depth(detector),
        polarization=polarization,
    )
    changes = zip(direction, geometry.S0, strict=True)
    sine = sum((x - s0) ** 2 for x, s0 in changes) ** 0.5 / 2
    return photons_per_flux.astype(dtype), sine.astype(dtype)
