"""Expected Bragg photons by brute force: every point × channel × mosaic domain. The reference of
the forward model.

I = r_e²·fluence·scale·Σ_E f_E Σ_domains share·|F(h0, E)|²·F_latt²(h − h0)·Ω·capture·polarization,
with h = (R A)⁻¹·(ŝ − ŝ0)·E/hc and h0 the nearest node, which is held constant in derivatives.
Mosaic domains are discrete. F_latt² by shape, with x = N(h − h0) per axis and r² = Σx² (nanoBragg;
its `fudge` is 1):

    square        Π (sin πx / sin(πx/N))², so the interference function for whole N
    round         (π/6)·ΠN²·(3(sin y − y cos y)/y³)², y = πr: a sphere of the volume of the domain
    gauss         ΠN²·exp(−2r²/0.63), integral over a cell (0.63π/2)^(3/2)·ΠN = 0.9844·ΠN
    gauss_argchk  gauss, but 0 where r²/0.63 ≥ 35
    tophat        ΠN² where r² < 0.63², else 0
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Array, Parameters, Pixels
from spreadflow.physics import exact_loops
from spreadflow.physics.exact_loops import CHANNELS, ExactTables
from spreadflow.physics.lattice_factor import GAUSS
from spreadflow.physics.pair_tables import rays, rays_by_point
from spreadflow.units import R_E_SQUARED_M2

_POINTS = 1 << 17
"""Points worked on at a time: bounds the memory."""

_CHUNK = 1 << 18
"""Points of an image made at a time."""

_SERIES = 0.5
"""(πr)² below which the round shape is summed as a series."""

_ROUND = np.array([1.0, -1 / 10, 1 / 280, -1 / 15120, 1 / 1330560, -1 / 172972800, 1 / 31135104000])
"""Coefficients of 3(sin y − y cos y)/y³ in powers of y²."""

_ARGCHK = 35
"""r²/0.63 from which on `gauss_argchk` is 0."""


def photons(
    parameters: Parameters, pixels: Pixels, *, shape: str = "gauss", dtype: str = "float64"
) -> Array:
    """Return the expected photons (point,) `dtype` of a pixel centred at each point, as if the
    pixel were as its centre is.

    dtype: of the lattice factor and of the sums; h − h0 is formed in float64. May be differentiated
    in any float leaf; hkl and the widths of the mosaic components must be known when it is traced.
    Raises ValueError for an unknown shape and for mosaic components that have a width.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape: one of {', '.join(SHAPES)}; found {shape!r}")
    _refuse_widths(parameters)
    table = _table(np.asarray(parameters.hkl))
    f_squared = jnp.asarray(parameters.f_squared).T
    others = parameters._replace(hkl=None, f_squared=None)
    n = len(pixels.panel)
    unit = max(256, (1 << (n - 1).bit_length()) // 8)  # few sizes, few programs
    size = min(_POINTS, -(-n // unit) * unit)
    missing = (0, -n % size)
    padded = [jnp.pad(jnp.asarray(column), missing, mode="edge") for column in pixels]
    blocks = []
    for start in range(0, n, size):
        block = Pixels(*(column[start : start + size] for column in padded))
        blocks.append(_block(others, f_squared, table, block, shape=shape, dtype=dtype))
    return jnp.concatenate(blocks)[:n]


def gauss_photons(parameters: Parameters, pixels: Pixels) -> np.ndarray:
    """Return `photons` (point,) of the Gaussian lattice factor: the same terms, in a compiled loop
    and without derivatives, in a fraction of the time. Raises ValueError as `photons` does.
    """
    _refuse_widths(parameters)
    mosaic = parameters.mosaic
    crystal = parameters.crystal
    spectrum = parameters.spectrum
    energies = np.asarray(spectrum.energies_ev, dtype=np.float64)
    strength = np.asarray(spectrum.photons) * np.asarray(parameters.f_squared)
    low, row = _box_of_rows(np.asarray(parameters.hkl), missing=-1)
    tables = ExactTables(
        ray=rays_by_point(parameters.detector, parameters.polarization, pixels),
        inverse=np.linalg.inv(mosaic.rotations @ crystal.A),
        share=np.asarray(mosaic.share),
        n_cells=np.asarray(crystal.n_cells, dtype=np.float64),
        energies_ev=energies,
        from_first_ev=np.pad(energies - energies[0], (0, CHANNELS)),
        strength=np.pad(strength, ((0, 0), (0, CHANNELS))),
        row=row,
        low=low,
    )
    return float(_height(parameters)) * exact_loops.photons(tables)


def image(
    parameters: Parameters, *, shape: str = "gauss", oversample: int = 1, dtype: str = "float64"
) -> np.ndarray:
    """Return the expected photons (panel, slow, fast) of all pixels, each the mean over oversample²
    points.
    """
    n_slow, n_fast = parameters.detector.shape
    out = np.empty((parameters.detector.n_panels, n_slow, n_fast), dtype)
    n_rows = max(1, _CHUNK // (n_fast * oversample**2))
    for panel in range(len(out)):
        for first in range(0, n_slow, n_rows):
            rows = out[panel, first : first + n_rows]
            slow = first + (np.arange(len(rows) * oversample) + 0.5) / oversample
            fast = (np.arange(n_fast * oversample) + 0.5) / oversample
            slow, fast = (grid.ravel() for grid in np.meshgrid(slow, fast, indexing="ij"))
            points = Pixels(np.full(len(fast), panel, np.int32), fast, slow)
            values = np.asarray(photons(parameters, points, shape=shape, dtype=dtype))
            squares = values.reshape(len(rows), oversample, n_fast, oversample)
            rows[:] = squares.mean(axis=(1, 3))
    return out


class _Table(NamedTuple):
    """Where nodes are in the list: a box of all indices, one wider than the list on either side.
    All int32.
    """

    row: Array
    """(h · k · l,) row of the node; one beyond the last for those not in the list"""
    low: Array
    """(3,) first index of the box"""
    high: Array
    """(3,) last index of the box"""


def _table(hkl: np.ndarray) -> _Table:
    """Return the table of nodes hkl (node, 3)."""
    low, row = _box_of_rows(hkl, missing=len(hkl))
    high = low + row.shape - 1
    return _Table(row.ravel(), low.astype(np.int32), high.astype(np.int32))


def _box_of_rows(hkl: np.ndarray, missing: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first indices (3,) of a box of all indices, one wider than the nodes hkl (node, 3)
    on either side, and the row of each node in it, (h, k, l) int32; `missing` where there is none.
    """
    low = hkl.min(axis=0, initial=0) - 1
    high = hkl.max(axis=0, initial=0) + 1
    row = np.full(high - low + 1, missing, np.int32)
    h, k, l = (hkl - low).T
    row[h, k, l] = np.arange(len(hkl))
    return low, row


def _refuse_widths(parameters: Parameters) -> None:
    """Raise ValueError where mosaic components have a width."""
    if np.any(parameters.mosaic.width):
        raise ValueError(
            "mosaic.width: 0, as only discrete domains can be summed; found a continuous spread"
        )


@partial(jax.jit, static_argnames=("shape", "dtype"))
def _block(parameters: Parameters, f_squared, table: _Table, pixels: Pixels, *, shape, dtype):
    """Return `photons` of one block; f_squared (channel, node)."""
    crystal = parameters.crystal
    mosaic = parameters.mosaic
    spectrum = parameters.spectrum
    turn, efficiency = rays(parameters.detector, parameters.polarization, pixels)
    inverse = jnp.linalg.inv(mosaic.rotations @ crystal.A)
    n_cells = crystal.n_cells.astype(dtype)
    # |F|² is spread over the box of all indices where that is less work than to look rows up
    is_box_cheaper = len(efficiency) * len(inverse) > len(table.row)

    def domain_photons(energy, f_squared, turn, inverse):
        """Return |F|²·F_latt²/ΠN² at the points; f_squared: of the nodes, or of the whole box of
        indices.
        """
        h0, away = _nearest_node(energy, turn, inverse, dtype)
        row = _box_rows(h0, table)
        if not is_box_cheaper:
            row = _take(table.row, row)
        return _take(f_squared, row) * SHAPES[shape](away, n_cells)

    def channel_photons(energy, f_squared, turn, inverse, share):
        """Return the sum over domains. Neither of the two keeps anything for the derivative but
        what it is given.
        """
        f_squared = jnp.append(f_squared, 0.0).astype(dtype)
        if is_box_cheaper:
            f_squared = _take(f_squared, table.row)

        def add_domain(total, domain):
            inverse, share = domain
            of_domain = jax.checkpoint(domain_photons)(energy, f_squared, turn, inverse)
            return total + share * of_domain, None

        dark = jnp.zeros(len(efficiency), dtype)
        return jax.lax.scan(add_domain, dark, (inverse, share))[0]

    def add_channel(total, channel):
        energy, weight, f_squared = channel
        of_channel = jax.checkpoint(channel_photons)(energy, f_squared, turn, inverse, share)
        return total + weight * of_channel, None

    share = mosaic.share.astype(dtype)
    channels = spectrum.energies_ev, spectrum.photons.astype(dtype), f_squared
    total, _ = jax.lax.scan(add_channel, jnp.zeros(len(efficiency), dtype), channels)
    return (total * (_height(parameters) * efficiency)).astype(dtype)


def _height(parameters: Parameters):
    """Return r_e²·scale/beam²·ΠN², per electron² of |F|²·F_latt²/ΠN², photon and efficiency."""
    beam_area = (parameters.beam_mm * 1e-3) ** 2
    cells_of_domain = jnp.prod(parameters.crystal.n_cells)
    return R_E_SQUARED_M2 * parameters.scale / beam_area * cells_of_domain**2


def _nearest_node(energy, turn, inverse, dtype):
    """Return h0, the node nearest to points at an energy, and h − h0, by component (point,)."""

    def component(i: int):
        return energy * sum(inverse[i, j] * turn[j] for j in range(3))

    h = [component(i) for i in range(3)]
    h0 = [jnp.ceil(index - 0.5) for index in jax.lax.stop_gradient(h)]
    away = [(index - nearest).astype(dtype) for index, nearest in zip(h, h0, strict=True)]
    return h0, away


def _take(column, row):
    """Return rows of a column that are known to be within it."""
    return column.at[row].get(mode="promise_in_bounds")


def _box_rows(h0, table: _Table):
    """Return (point,) where in the box of all indices the nodes h0 are, whole numbers by component
    (point,).
    """
    offsets = []
    for j, index in enumerate(h0):
        clipped = jnp.clip(index.astype(jnp.int32), table.low[j], table.high[j])
        offsets.append(clipped - table.low[j])
    h, k, l = offsets
    _, n_k, n_l = table.high - table.low + 1
    return (h * n_k + k) * n_l + l


# ---------------------------------------------------------------- F_latt² / ΠN², of h − h0
# (components) and N


def _radius2(away, n_cells):
    """Return r² = Σ N²(h − h0)²."""
    return sum((n_cells[j] * a) ** 2 for j, a in enumerate(away))


def _square(away, n_cells):
    """Return the interference function of a block of N cells, as a series where it is 0/0."""
    factor: Array = 1.0
    for j, a in enumerate(away):
        n = n_cells[j]
        x = jnp.pi * a
        is_small = jnp.abs(n * x) < 1e-2
        safe = jnp.where(is_small, 0.5 / n, x)
        series = 1.0 - (n**2 - 1) * x**2 / 6 + (3 * n**4 - 10 * n**2 + 7) * x**4 / 360
        closed = jnp.sin(n * safe) / (n * jnp.sin(safe))
        factor *= jnp.where(is_small, series, closed)
    return factor**2


def _round(away, n_cells):
    """Return the factor of a sphere of the volume of the domain, as a series near its centre."""
    y2 = jnp.pi**2 * _radius2(away, n_cells)
    is_small = y2 < _SERIES
    safe = jnp.where(is_small, 1.0, y2)
    y = jnp.sqrt(safe)
    closed = 3 * (jnp.sin(y) / y - jnp.cos(y)) / safe
    coefficients = jnp.asarray(_ROUND[::-1], y2.dtype)
    series = jnp.polyval(coefficients, jnp.where(is_small, y2, 0.0))
    return jnp.pi / 6 * jnp.where(is_small, series, closed) ** 2


def _gauss(away, n_cells):
    """Return the Gaussian factor."""
    return jnp.exp(-2 / GAUSS * _radius2(away, n_cells))


def _gauss_argchk(away, n_cells):
    """Return the Gaussian factor, cut where the published program cuts it."""
    r2 = _radius2(away, n_cells)
    return jnp.where(r2 < _ARGCHK * GAUSS, jnp.exp(-2 / GAUSS * r2), 0.0)


def _tophat(away, n_cells):
    """Return 1 within r = 0.63, else 0."""
    is_inside = _radius2(away, n_cells) < GAUSS**2
    return jnp.where(is_inside, 1.0, 0.0).astype(n_cells.dtype)


SHAPES = {
    "square": _square,
    "round": _round,
    "gauss": _gauss,
    "gauss_argchk": _gauss_argchk,
    "tophat": _tophat,
}
"""Lattice factors by their names; each takes h − h0 by component and N, and returns F_latt²/ΠN²."""
