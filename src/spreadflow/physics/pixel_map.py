"""What each pixel of a detector captures of what is scattered to it, and at which angle it lies."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Detector
from spreadflow.physics import geometry, parallax, response


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
    photons_per_flux = response.efficiency(
        direction,
        distance,
        normal,
        detector.pixel_mm,
        closest_mm=abs(height),
        depth=response.depth(detector),
        polarization=polarization,
    )
    changes = zip(direction, geometry.S0, strict=True)
    sine = sum((x - s0) ** 2 for x, s0 in changes) ** 0.5 / 2
    return photons_per_flux.astype(dtype), sine.astype(dtype)
