"""What part of the photons scattered by a pixel's solid angle it captures: polarization, sensor."""

import numpy as np

from spreadflow.models import Detector

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
    both = thickness * attenuation
    numpy_or_jax = both.__array_namespace__() if hasattr(both, "__array_namespace__") else np
    return numpy_or_jax.where(
        both > 0, thickness / numpy_or_jax.where(attenuation > 0, attenuation, 1.0), OPAQUE
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
