"""σ of intensities: the diagonal of M⁻¹, estimated from draws, the common scale projected out.

The variance of an intensity is that which is left where all others are held, 1/M_hh, and that of
its mean given the others, which scales of lattices in common make. The second is the mean square
over solutions for random right-hand sides of covariance M (Papandreou & Yuille 2010, NIPS 23, 1858;
Sidén et al. 2018, J. Comput. Graph. Stat. 27, 898), each as cheap as the solve for the intensities.
"""

import numpy as np

from spreadflow.analysis.factors.equations import Batch, Parabolas, by_lattice
from spreadflow.analysis.factors.solution import Marginal

N_DRAWS = 32
"""Draws: σ is then known to 12 % where only scales make it, and better elsewhere."""

SMALLEST_EIGENVALUE = 1e-12
"""Eigenvalue of an information, relative to the largest, below which it is noise of rounding."""


def draws(
    batch: Batch,
    of_lattices: Parabolas,
    held: np.ndarray,
    prior_precision: np.ndarray,
    rng: np.random.Generator,
    n_reflections: int,
) -> np.ndarray:
    """Return random slopes (draw, reflection) by I of the lattices of a batch, lattices eliminated,
    whose covariance is the batch's share of M.

    held: (lattice, unknown, unknown) N⁻¹ with the prior; prior_precision: (unknown, unknown).
    """
    n_columns, n_unknowns = of_lattices.cross.shape
    by_intensity = np.zeros((n_columns, N_DRAWS))
    solved_cross = np.zeros((n_columns, n_unknowns))
    solved_draws = np.zeros((n_columns, N_DRAWS))
    for columns, normal in of_lattices.boxes:
        root, inverse_root = _roots(normal)
        normals = rng.standard_normal((*columns.shape, N_DRAWS))
        by_intensity[columns] = root @ normals
        inverse = inverse_root @ inverse_root.transpose(0, 2, 1)
        solved_cross[columns] = inverse @ of_lattices.cross[columns]
        solved_draws[columns] = inverse_root @ normals

    # slopes by the lattices' unknowns, given those by intensities
    n_lattices = len(of_lattices.nuisance)
    outer = of_lattices.cross[:, :, None] * solved_cross[:, None, :]
    left = of_lattices.nuisance + prior_precision - by_lattice(outer, batch.lattice, n_lattices)
    root, _ = _roots(0.5 * (left + left.transpose(0, 2, 1)))
    by_unknown = root @ rng.standard_normal((n_lattices, n_unknowns, N_DRAWS))
    follows = of_lattices.cross[:, :, None] * solved_draws[:, None, :]
    by_unknown += by_lattice(follows, batch.lattice, n_lattices)

    moved = (held @ by_unknown)[batch.lattice]
    eliminated = by_intensity - np.einsum("ci,cid->cd", of_lattices.cross, moved)
    out = np.zeros((N_DRAWS, n_reflections))
    for draw, row in zip(eliminated.T, out, strict=True):
        row += np.bincount(batch.unique, draw, n_reflections)
    return out


def _roots(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return R and S of symmetric matrices (n, m, m) with R Rᵀ the matrix and S Sᵀ its inverse,
    R⁻¹ = Sᵀ; what is only rounding is zero in both.
    """
    values, vectors = np.linalg.eigh(matrices)
    largest = np.maximum(values[:, -1:], 0.0)
    is_real = values > SMALLEST_EIGENVALUE * largest
    size = np.sqrt(np.where(is_real, values, 0.0))
    inverse = np.divide(1.0, size, out=np.zeros_like(size), where=is_real)
    return vectors * size[:, None, :], vectors * inverse[:, None, :]


def sigmas(marginal: Marginal, slopes: np.ndarray, intensity: np.ndarray) -> np.ndarray:
    """Return σ (reflection,) of intensities (reflection,), NaN where no lattice says anything.
    Collective.

    slopes: (draw, reflection) of all ranks, as `draws` returns them, and of the restraint.
    """
    is_seen = marginal.is_seen
    own = np.where(is_seen, marginal.information(), 1.0)
    weight = np.where(is_seen, marginal.diagonal * intensity, 0.0)
    along = weight @ intensity
    squares = np.zeros(len(intensity))
    for slope in slopes:
        right = np.where(is_seen, slope, 0.0)
        change, _ = marginal.solved(right)
        if along > 0:
            change = change - intensity * (weight @ change) / along
        mean_given_others = change - right / own
        squares += mean_given_others**2
    variance = 1.0 / own + squares / len(slopes)
    return np.where(is_seen, np.sqrt(variance), np.nan)
