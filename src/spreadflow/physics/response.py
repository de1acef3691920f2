"""What part of the photons scattered by a pixel's solid angle it captures: polarization, sensor."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Detector
from spreadflow.physics import geometry

OPAQUE = 700.0
"""Attenuation lengths that let nothing through: exp(−700) of 1, and derivatives are finite, unlike
at infinity.
"""


def depth(detector: Detector):
    """Return () sensor thickness in attenuation lengths; `OPAQUE` where everything is captured or
    one of them is not known.
    """
    thickness = detector.thickness_mm
    attenuation = detector.attenuation_mm
    return jnp.where(
        thickness * attenuation > 0,
        thickness / jnp.where(attenuation > 0, attenuation, 1.0),
        OPAQUE,
    )


def kahn(direction, polarization):
    """Return polarization factor ½(1 + cos²2θ − K cos 2ψ sin²2θ) of unit vectors with components
    (x, y, z) (arrays).

    K = `polarization` is along the lab x axis (Kahn et al. 1982).
    """
    x, y, z = direction
    return 0.5 * (1.0 + z * z - polarization * (x * x - y * y))


def captured(direction, normal, depth):
    """Return fraction 1 − exp(−depth/|n·ŝ|) of the photons a sensor captures; unit vectors as
    components, depth of `depth`.
    """
    cosine = abs(sum(a * n for a, n in zip(direction, normal, strict=True)))
    return -cosine.__array_namespace__().expm1(
        -depth / cosine
    )  # of NumPy or JAX, whichever was given


def efficiency(direction, distance_mm, normal, pixel_mm, *, closest_mm, depth, polarization):
    """Return solid angle × captured fraction × Kahn polarization of pixels. Components (x, y, z)
    are tuples of arrays.

    direction: unit vector from the sample; distance_mm: to the sample; normal: unit normal of the
    panel (either side); closest_mm: of the panel's plane; depth: of `depth`. Ω =
    pixel²·closest/distance³. polarization: K of `kahn`.
    """
    solid_angle = pixel_mm**2 * closest_mm / distance_mm**3
    return solid_angle * kahn(direction, polarization) * captured(direction, normal, depth)


def pixel_map(
    detector: Detector, polarization: float, dtype: DTypeLike = np.float64
) -> tuple[np.ndarray, np.ndarray]:
    """Return efficiency and sin θ at the centres of all pixels, each (panel, slow, fast); computed
    in float64.
    """
    axes = geometry.normals(detector), geometry.distances_mm(detector)
    maps = _pixel_map(
        detector._replace(shape=(0, 0)),
        *axes,
        polarization,
        shape=detector.shape,
        dtype=np.dtype(dtype),
    )
    return np.asarray(maps[0]), np.asarray(maps[1])


@partial(jax.jit, static_argnames=("shape", "dtype"))
def _pixel_map(detector: Detector, normals, closest_mm, polarization, *, shape, dtype):
    """Return one pass over the pixels without temporary maps."""

    def axis(a):
        return [a[:, j, None, None] for j in range(3)]

    slow, fast = ((jnp.arange(n) + 0.5) * detector.pixel_mm for n in shape)
    steps = zip(axis(detector.origin_mm), axis(detector.fast), axis(detector.slow), strict=True)
    place = [o + f * fast + s * slow[:, None] for o, f, s in steps]
    distance = sum(x * x for x in place) ** 0.5
    direction = [x / distance for x in place]
    made = efficiency(
        direction,
        distance,
        axis(normals),
        detector.pixel_mm,
        closest_mm=closest_mm[:, None, None],
        depth=depth(detector),
        polarization=polarization,
    )
    sine = sum((x - s0) ** 2 for x, s0 in zip(direction, geometry.S0, strict=True)) ** 0.5 / 2
    return made.astype(dtype), sine.astype(dtype)
