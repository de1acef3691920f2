"""Expected Bragg photons of one lattice as a function that JAX differentiates in every float leaf:
what `forward` computes in compiled loops, for gradients by anything.

photons(point) = r_e²·scale/beam² Σ_clouds amplitude Σ_E photons_E |F(h, E)|² exp(−½ (p − q)ᵀM(p −
q)) · efficiency, p = (ŝ − ŝ0)·E/hc. All derivatives but those by the photons of a channel follow
from three moments of the energy (`channel_sums`).
"""

import jax

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Array, Parameters, Pixels
from spreadflow.physics.channel_sums import channel_sum
from spreadflow.physics.pair_tables import Pairs, Tables, exponents, tables_of, window_start


def photons(parameters: Parameters, pixels: Pixels, pairs: Pairs):
    """Return the expected photons (point,) of pixels, from the pairs of `layout`. Pure;
    differentiable in every float leaf.

    A point stands for a whole pixel. What is worked out of all pairs is in memory at once.
    """
    of_pairs = _pair_photons(tables_of(parameters, pixels), pairs)
    return jax.ops.segment_sum(of_pairs, pairs.point, len(pixels.fast))


def _pair_photons(tables: Tables, pairs: Pairs) -> Array:
    """Return the photons (pair,) of pairs."""
    ray = tables.ray
    cloud = tables.cloud
    channels = tables.channels
    parabola = exponents(ray, cloud, channels.middle, pairs.point, pairs.cloud)
    start = window_start(tables, pairs)
    total = channel_sum(parabola, channels.x, channels.strength, pairs.channel, start)
    return ray.efficiency[pairs.point] * cloud.amplitude[pairs.cloud] * total
