"""The engine on the device that JAX has: rows and sums stay there, and images alone go to it.

For each delay and block of shots, the rows of the partners are gathered, multiplied and added up in
float64. Of B shots and D delays, memory passes 8·D bytes for each pixel and shot, less what a cache
holds, and 48·D/B for the sums.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.analysis.correlation.engine import Limits
from spreadflow.analysis.correlation.history import Partners

AT_ONCE = 256
"""Shots of a call: fewer are filled up, so that one program serves all."""


class JaxEngine:
    """An `Engine` whose sums are (3, delay, pixel) on the device."""

    def __init__(self, n_pixels: int, n_delays: int, n_rows: int, limits: Limits):
        self._limits = limits.single()
        self._n_delays = n_delays
        self._nothing = n_rows
        """the last row, of zeros: the partner of who has none"""
        self._rows = jnp.zeros((n_rows + 1, n_pixels), jnp.float32)
        self._is_bad = jnp.zeros(n_pixels, bool)

    @property
    def is_bad(self) -> np.ndarray:
        """(pixel,) int8, as of `Sums`."""
        return np.asarray(self._is_bad).astype(np.int8)

    def keep(self, images: np.ndarray, shots: np.ndarray, rows: np.ndarray) -> None:
        """Keep images, as `Engine`."""
        nowhere = self._nothing + 1
        for first in range(0, len(shots), AT_ONCE):
            chunk = slice(first, first + AT_ONCE)
            block = np.zeros((AT_ONCE, images.shape[1]), np.float32)
            block[: len(shots[chunk])] = images[shots[chunk]]
            places = _filled_up(rows[chunk], nowhere)
            self._rows, self._is_bad = _kept(self._rows, self._is_bad, block, places, *self._limits)

    def values(self, pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the values (pixel, row) of some pixels in some rows."""
        return np.asarray(self._rows[rows[None, :], pixels[:, None]]).astype(np.float64)

    def empty(self) -> jax.Array:
        """Return sums of nothing."""
        return jnp.zeros((3, self._n_delays, self._rows.shape[1]))

    def add_up(self, partners: Partners, sign: float, sums: jax.Array) -> jax.Array:
        """Return sums with those over partners added, as `Engine`."""
        others = np.where(partners.others >= 0, partners.others, self._nothing)
        is_earlier = partners.step < 0
        for first in range(0, len(partners.shots), AT_ONCE):
            chunk = slice(first, first + AT_ONCE)
            shots = _filled_up(partners.shots[chunk], self._nothing)
            theirs = _filled_up(others[:, chunk], self._nothing)
            sums = _added(self._rows, shots, theirs, sign, sums, is_earlier=is_earlier)
        return sums

    def replaced(self, sums: jax.Array, others: jax.Array, is_replaced: np.ndarray) -> jax.Array:
        """Return sums with those of some pixels from others, as `Engine`."""
        return jnp.where(is_replaced, others, sums)

    def by_pixel(self, sums: jax.Array) -> np.ndarray:
        """Return sums (3, delay, pixel), as `Engine`."""
        return np.array(sums)


def _filled_up(rows: np.ndarray, with_row: int) -> np.ndarray:
    """Return rows (..., n) filled up with one row to as many as a call has."""
    short = [(0, 0)] * (rows.ndim - 1) + [(0, AT_ONCE - rows.shape[-1])]
    return np.pad(rows, short, constant_values=with_row)


@partial(jax.jit, donate_argnames=("rows", "is_bad"))
def _kept(
    rows: jax.Array,
    is_bad: jax.Array,
    images: jax.Array,
    places: jax.Array,
    not_zero: jax.Array,
    saturated: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return rows with images (shot, pixel) at their places, and which pixels are bad, by the rules
    of `lag_loops.keep`. An image whose place is behind the last row is left out.
    """
    is_above = ~(images < saturated)
    cleaned = jnp.where(jnp.isfinite(images) & (images > not_zero), images, not_zero)
    return rows.at[places].set(cleaned, mode="drop"), is_bad | is_above.any(axis=0)


@partial(jax.jit, donate_argnames="sums", static_argnames="is_earlier")
def _added(
    rows: jax.Array,
    shots: jax.Array,
    others: jax.Array,
    sign: jax.Array,
    sums: jax.Array,
    *,
    is_earlier: bool,
) -> jax.Array:
    """Return sums (3, delay, pixel) with those over the partners of shots added. shots: (shot,)
    rows; others: (delay, shot) rows of their partners, the last one where there is none.
    is_earlier: whether partners are the earlier ones.
    """
    own = rows[shots].astype(jnp.float64)
    nothing = len(rows) - 1

    def of_delay(partners: jax.Array) -> jax.Array:
        theirs = rows[partners].astype(jnp.float64)
        has_one = (partners != nothing).astype(jnp.float64)
        of_shots, of_partners = has_one @ own, theirs.sum(axis=0)
        both = (of_partners, of_shots) if is_earlier else (of_shots, of_partners)
        return jnp.stack([(own * theirs).sum(axis=0), *both])

    return sums + sign * jax.lax.map(of_delay, others).transpose(1, 0, 2)
