"""What becomes of captured photons: they are counted, amplified, spread and read out, in the
published order.

Flicker → Poisson → gain map → point spread → ADU per photon, offset, readout noise → rounding →
saturation.

The random numbers are bits of the caller's generator, the work is done in blocks of a fixed number
of pixels: memory is bounded, one program serves detectors of any size, and results depend on
neither ranks nor machine, but for the last bit of exp, log and erf⁻¹ of XLA's CPU code (one pixel
in some 10⁷ may differ by a count between kinds of CPU).
"""

from collections.abc import Callable, Iterator
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import scipy

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Array

BLOCK = 2**17
"""Pixels handled at a time: what they need fits into a core's cache."""

COARSE = 32.0
"""Step of the means with tables of the Poisson distribution, below LIMIT; photons."""

FINE = 0.125
"""Step of the means below `COARSE`, photons."""

LIMIT = 4096.0
"""Mean from which on counts come from NumPy's generator, photons."""

TERMS = 7
"""Largest number drawn for a mean below FINE; the next has probability 1e-12."""

TILE = 96
"""Edge of the Fourier transforms of the point spread, px; six kernel radii where that is more."""


# ---------------------------------------------------------------- counting


def alias_table(probabilities: np.ndarray) -> np.ndarray:
    """Return tables (row, column), uint32, from which `_draw` draws columns with `probabilities`;
    2^m columns (Walker 1977).

    A column keeps the share in the upper 32 − m bits of its probability to be chosen, 2^−m, and
    gives the rest to the column in the lower bits: probabilities are met within 2^−32 for each
    column that gives.
    """
    n = probabilities.shape[1]
    rows = np.arange(len(probabilities))
    m = n.bit_length() - 1
    left = n * probabilities / probabilities.sum(axis=1, keepdims=True)
    share = np.ones_like(left)
    other = np.tile(np.arange(n), (len(left), 1))
    for _ in range(n - 1):  # the emptiest column is filled up by the fullest
        emptiest = left.argmin(axis=1)
        fullest = left.argmax(axis=1)
        share[rows, emptiest] = left[rows, emptiest]
        other[rows, emptiest] = fullest
        left[rows, fullest] -= 1.0 - left[rows, emptiest]
        left[rows, emptiest] = 1.0
    largest = 2 ** (32 - m)
    upper_bits = np.clip(np.rint(share * largest), 0, largest - 1).astype(np.uint32)
    return upper_bits << np.uint32(m) | other.astype(np.uint32)


def _first(mean, columns: int):
    """Return the number that the first column of a row of this mean stands for; the mean is in the
    middle if there is room.
    """
    return (mean - columns // 2).clip(0)


@cache
def _tables() -> tuple[jax.Array, jax.Array]:
    """Return the tables of Poisson's distribution for means 0, COARSE, ... < LIMIT and 0, FINE, ...
    < COARSE.
    """
    coarse = _poisson_table(np.arange(0, LIMIT, COARSE), 1024)
    fine = _poisson_table(np.arange(0, COARSE, FINE), 128)
    return coarse, fine


def _poisson_table(means: np.ndarray, columns: int) -> jax.Array:
    """Return the alias table of Poisson's distribution, a row for each mean."""
    k = _first(means, columns).astype(int)[:, None] + np.arange(columns)
    mean = means[:, None]
    is_positive = mean > 0
    log_mean = np.log(np.where(is_positive, mean, 1.0))
    probabilities = np.exp(k * log_mean - mean - scipy.special.gammaln(k + 1))
    table = alias_table(np.where(is_positive, probabilities, k == 0))
    return jnp.asarray(table)


def _draw(table, row, bits):
    """Return columns (...), int32, drawn from rows of an `alias_table` with uniform uint32 `bits`
    (...).
    """
    n = table.shape[1]
    m = n.bit_length() - 1
    column = bits >> (32 - m)
    place = row * n + column.astype(jnp.int32)
    entry = table.reshape(-1).at[place].get(mode="promise_in_bounds")
    is_own = (bits & (2 ** (32 - m) - 1)) < (entry >> m)
    return jnp.where(is_own, column, entry & (n - 1)).astype(jnp.int32)


@jax.jit
def _poisson(expected, bits, coarse, fine):
    """Return counts (n,) float32 for means (n,) float32 in [0, LIMIT), from uint32 bits (3, n).

    A sum of Poisson numbers is one: the mean is split into a multiple of COARSE, a multiple of FINE
    and a rest. The first two are drawn from tables, the last as Σ_k [u < P(more than k)].
    """
    coarse_bits, fine_bits, rest_bits = bits
    row = jnp.clip((expected / COARSE).astype(jnp.int32), 0, len(coarse) - 1)
    rest = expected - row.astype(jnp.float32) * COARSE
    fine_row = jnp.clip((rest / FINE).astype(jnp.int32), 0, len(fine) - 1)
    rest = rest - fine_row.astype(jnp.float32) * FINE
    first = _first(row * int(COARSE), coarse.shape[1])
    count = first + _draw(coarse, row, coarse_bits) + _draw(fine, fine_row, fine_bits)

    u = (rest_bits.astype(jnp.float32) + 0.5) * 2.0**-32
    terms = [jnp.exp(-rest)]
    for k in range(1, TERMS + 1):
        terms.append(terms[-1] * rest / k)
    more = jnp.zeros_like(rest)
    for probability in reversed(terms[1:]):  # from the smallest
        more = more + probability
        count = count + (u < more)
    return count.astype(jnp.float32)


def poisson(rng: np.random.Generator, expected: Array) -> np.ndarray:
    """Return Poisson counts, float32, of `expected` (any shape). Probabilities are met to about
    2^−32.

    Raises ValueError where a mean is negative, not a number or beyond NumPy's range.
    """
    expected = np.asarray(expected)
    flat = expected.reshape(-1)
    out = np.empty(expected.shape, dtype=np.float32)
    for pixels, bits in _blocks(rng, flat.size, 3):
        mean = flat[pixels].astype(np.float32)
        counts = out.reshape(-1)[pixels]
        counts[:] = _padded(_poisson, mean, bits, *_tables())
        others = np.flatnonzero(~((mean >= 0) & (mean < LIMIT)))
        if others.size:
            counts[others] = rng.poisson(flat[pixels][others])
    return out


def _blocks(rng: np.random.Generator, size: int, n: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield slices of at most BLOCK pixels, each with uniform uint32 bits (n, BLOCK)."""
    for start in range(0, size, BLOCK):
        words = rng.integers(0, 2**64, (n, BLOCK // 2), dtype=np.uint64)
        yield slice(start, min(start + BLOCK, size)), words.view(np.uint32)


def _padded(kernel: Callable, values: np.ndarray, *args) -> np.ndarray:
    """Return `kernel(values, *args)` with values padded to BLOCK, and the result cut back."""
    n = len(values)
    if n != BLOCK:
        values = np.pad(values, (0, BLOCK - n))
    return np.asarray(kernel(values, *args))[:n]


# ---------------------------------------------------------------- amplification, point spread


def gain_map(rng: np.random.Generator, shape: tuple[int, ...], spread: float) -> np.ndarray:
    """Return float32 gains of mean 1: the calibration error of each pixel, the same for all
    shots. spread: their relative standard deviation.
    """
    return 1.0 + np.float32(spread) * rng.standard_normal(shape, dtype=np.float32)


def spread_out(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return images (panel, slow, fast) after a point spread, float32; what the kernel leaves out
    goes evenly over the panel.

    Convolution by overlapping tiles, band after band (Stockham 1966): errors are 1e-7 of the
    brightest pixel of a tile.
    """
    radius = len(kernel) // 2
    size = scipy.fft.next_fast_len(max(TILE, 6 * radius), real=True)
    n_rows = size - 2 * radius
    transfer = scipy.fft.rfft2(kernel.astype(np.float32), (size, size))
    out = np.empty(image.shape, dtype=np.float32)
    for panel, blurred in zip(image, out, strict=True):
        lost = np.float32((1.0 - kernel.sum()) * panel.mean(dtype=np.float64))
        for start in range(0, len(panel), n_rows):
            rows = slice(start, start + n_rows)
            blurred[rows] = _band(panel, rows, transfer, radius) + lost
    return out


def _band(panel: np.ndarray, rows: slice, transfer: np.ndarray, radius: int) -> np.ndarray:
    """Return the rows of a panel (slow, fast) convolved with the kernel of this Fourier transform
    (size, size // 2 + 1).
    """
    n_slow, n_fast = panel.shape
    size = len(transfer)
    net = size - 2 * radius
    n_tiles = -(-n_fast // net)
    first = max(rows.start - radius, 0)
    last = min(rows.stop + radius, n_slow)
    band = np.zeros((size, n_tiles * net + 2 * radius), dtype=np.float32)
    top = first - (rows.start - radius)
    band[top : top + last - first, radius : radius + n_fast] = panel[first:last]

    tiles = np.lib.stride_tricks.sliding_window_view(band, size, axis=1)[:, ::net]
    waves = scipy.fft.rfft2(tiles, axes=(0, 2))
    waves *= transfer[:, None]
    blurred = scipy.fft.irfft2(waves, (size, size), axes=(0, 2), overwrite_x=True)
    margin = 2 * radius  # the first lines of a tile wrap around
    n_rows = min(net, n_slow - rows.start)
    inside = blurred[margin : margin + n_rows, :, margin:]
    return inside.reshape(n_rows, -1)[:, :n_fast]


# ---------------------------------------------------------------- readout


def _normal(bits):
    """Return standard normal float32 from uniform uint32 bits: √2 erf⁻¹(u), u in (−1, 1); cut at
    5.4 standard deviations.
    """
    whole = bits.astype(jnp.int32).astype(jnp.float32)
    u = (whole + 0.5) * 2.0**-31
    largest = 1 - 2.0**-24
    inside = jnp.clip(u, -largest, largest)
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(inside)


@jax.jit
def _digitised(photons, bits, quantum_gain, readout_adu, offset_adu, saturation_adu):
    """Return ADU (n,), int32, of photons (n,) float32; bits (1, n) uint32, the others float32 but
    the last, int32.
    """
    noise = readout_adu * _normal(bits[0])
    adu = jnp.rint(photons * quantum_gain + offset_adu + noise)
    return jnp.where(adu > saturation_adu, saturation_adu + 1, adu.astype(jnp.int32))


def read_out(
    rng: np.random.Generator,
    expected: Array,
    gain: np.ndarray,
    *,
    kernel: np.ndarray | None = None,
    flicker: float = 0.0,
    quantum_gain: float = 1.0,
    readout_adu: float,
    offset_adu: float,
    saturation_adu: int,
) -> np.ndarray:
    """Return one exposure to `expected` photons, (panel, slow, fast) int32 ADU.

    gain: of `gain_map`. kernel: one of POINT_SPREADS, or None. flicker: relative standard deviation
    of each pixel's expected photons. quantum_gain: ADU per photon. A pixel beyond `saturation_adu`
    reads one more than that. Raises ValueError where `expected` is negative or not a number.
    """
    if flicker:
        shape = np.shape(expected)
        factor = 1.0 + np.float32(flicker) * rng.standard_normal(shape, dtype=np.float32)
        expected = np.maximum(factor, 0.0) * expected
    photons = poisson(rng, expected)
    photons *= gain
    if kernel is not None:
        photons = spread_out(photons, kernel)
    out = np.empty(photons.shape, dtype=np.int32)
    flat = photons.reshape(-1)
    chain = [np.float32(quantum_gain), np.float32(readout_adu), np.float32(offset_adu)]
    for pixels, bits in _blocks(rng, flat.size, 1):
        adu = _padded(_digitised, flat[pixels], bits, *chain, np.int32(saturation_adu))
        out.reshape(-1)[pixels] = adu
    return out
