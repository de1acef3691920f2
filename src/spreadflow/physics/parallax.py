"""Parallax: photons that come in at an angle are recorded where a thick sensor absorbs them, which
is farther out than where they enter it.

A photon travels x below the surface before it is absorbed, with density e^(−x/Λ) for 0 < x < T/cos
α: thickness T, attenuation length Λ, angle of incidence α. A spot lies at the mean depth of those
that are absorbed, along the panel's normal,

    d(α) = ⟨x⟩ cos α = T g(u),  g = 1/u − 1/(eᵘ − 1),  u = T/(Λ cos α),

so that it is shifted by d tan α from where the ray meets the surface. DIALS'
`ParallaxCorrectedPxMmStrategy` has the same form with (1 − e^(−u)) ⟨x⟩ in place of ⟨x⟩, as if the
photons that are not absorbed were recorded at the surface.

Everything here works on NumPy and JAX arrays alike, and does nothing where `Detector.parallax_mm`
is None: compiled programs are then what they are without it.
"""

from collections.abc import Sequence

from spreadflow.models import Array, Detector

THIN = 1e-3
"""Thickness, in attenuation lengths, below which g is summed as a series."""

OPAQUE = 700.0
"""Thickness, in attenuation lengths, that lets nothing through: exp(700) is still a number."""

GRAZING = 1e-6
"""Least cosine of the angle of incidence."""

COSINE_STEP = 1e-4
"""Step of finite differences by the cosine of the angle of incidence: 1e-8 of the depth, which is
a thousandth of the distance.
"""

N_STEPS = 3
"""Fixed-point steps from a pixel to its depth: each leaves about depth/distance of the error, so
that 1e-9 of the depth remains.
"""


def depth_mm(detector: Detector, cosine: Array) -> Array:
    """Return the mean depth of absorption along the normal, mm, at cosines of the angle of
    incidence, of either sign. The detector has a `parallax_mm`.
    """
    numpy_or_jax = cosine.__array_namespace__()
    steepness = numpy_or_jax.maximum(abs(cosine), GRAZING)
    u = detector.thickness_mm / (detector.parallax_mm * steepness)
    is_thin = u < THIN
    thick = numpy_or_jax.where(is_thin, 1.0, u)
    closed = 1.0 / thick - 1.0 / numpy_or_jax.expm1(numpy_or_jax.minimum(thick, OPAQUE))
    return detector.thickness_mm * numpy_or_jax.where(is_thin, 0.5 - u / 12.0, closed)


def reached(detector: Detector, height_mm: Array, along: Array, length: Array) -> Array:
    """Return the height, mm, of the plane in which rays are recorded: `height_mm`, moved away from
    the sample by the mean depth.

    height_mm: of the panel over the sample, along its normal, of either sign. along, length: the
    rays' components along the normal, and their lengths.
    """
    if detector.parallax_mm is None:
        return height_mm
    return _away(height_mm, depth_mm(detector, along / length))


def deepened(
    detector: Detector, position_mm: Sequence[Array], normal: Sequence[Array], height_mm: Array
) -> tuple[Sequence[Array], Array]:
    """Return the positions (x, y, z), mm, at which photons recorded at points of a panel are
    absorbed on average, and their height along the normal: the inverse of `reached`.

    position_mm, normal: components (x, y, z) of the points on the surface and of the normals;
    height_mm: their scalar product, of either sign.
    """
    if detector.parallax_mm is None:
        return position_mm, height_mm
    closest = abs(height_mm)
    from_foot = sum(x * x for x in position_mm) - closest * closest
    below = closest
    for _ in range(N_STEPS):
        cosine = below / (from_foot + below * below) ** 0.5
        below = closest + depth_mm(detector, cosine)

    depth = below - closest
    away = _away(height_mm, depth) - height_mm
    return [x + n * away for x, n in zip(position_mm, normal, strict=True)], height_mm + away


def _away(height_mm: Array, depth: Array) -> Array:
    """Return heights of either sign, farther from 0 by a depth."""
    numpy_or_jax = depth.__array_namespace__()
    return height_mm + numpy_or_jax.where(height_mm < 0, -depth, depth)
