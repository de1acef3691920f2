"""SPREAD: f′(E) and f″(E) of each metal site from the Gram matrices of many lattices.

|F|² is quadratic in the curves, and so nearly linear where they are known to an electron or two
that Gauss-Newton needs few steps. A step costs milliseconds a lattice and no pixels, whatever the
grid of energies, the restraints or the dispersion relation.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.gram import Gram
from spreadflow.physics.structure_factors import StructureFactors

SMALLEST_FALL = 1e-5
"""A step that promises less of −ln L ends the refinement: curves are then within 0.005 σ."""

MAX_STEPS = 25
"""Steps at most."""

LEAST_DAMPING = 0.1
"""Of a refinement that needs any, relative to the diagonal of the normal matrix."""


class LatticeTerms(NamedTuple):
    """A lattice's Gram matrices, and what F of its columns is made of."""

    gram: Gram
    fixed: np.ndarray
    """(column,) complex128: F without the sites' f′ and f″"""
    groups: np.ndarray
    """(site, column) complex128: g of each site"""


class Normal(NamedTuple):
    """−ln L of lattices, a parabola in parameters about some point."""

    losses: np.ndarray
    """(lattice,)"""
    scores: np.ndarray
    """(lattice, parameter) gradients"""
    hessian: np.ndarray
    """(parameter, parameter) of all"""


Evaluate = Callable[[np.ndarray], Normal]


class RefinedCurves(NamedTuple):
    """Curves that make the pixels likeliest, restraints included."""

    theta: np.ndarray
    """(parameter,)"""
    losses: np.ndarray
    """(lattice,) −ln L, restraints left out"""
    hessian: np.ndarray
    """(parameter, parameter) information of pixels and restraints"""
    of_pixels: np.ndarray
    """(parameter, parameter) that of the pixels"""
    scores: np.ndarray
    """(lattice, parameter)"""
    steps: list[float]
    """largest change of the curves at each step, electrons"""

    @property
    def fisher(self) -> np.ndarray:
        """(parameter, parameter) covariance if the model is right."""
        return np.linalg.inv(self.hessian)

    @property
    def scatter(self) -> np.ndarray:
        """(parameter, parameter) covariance of the pixels' slope as the lattices scatter: Σ g
        gᵀ·n/(n − 1).
        """
        n = len(self.scores)
        return self.scores.T @ self.scores * (n / max(n - 1, 1))

    @property
    def sandwich(self) -> np.ndarray:
        """(parameter, parameter) covariance from the scatter of the lattices: honest where the
        model is wrong, too.
        """
        return self.covariance(self.scatter)

    def covariance(self, noise: np.ndarray) -> np.ndarray:
        """Return (parameter, parameter) H⁻¹(noise + R)H⁻¹ (Huber 1967, White 1982): R, the
        restraints, at their word.

        noise: (parameter, parameter) covariance of the pixels' slope; their information where the
        model is right.
        """
        inverse = self.fisher
        return inverse @ (noise + self.hessian - self.of_pixels) @ inverse


def lattice(gram: Gram, factors: StructureFactors, rows: np.ndarray) -> LatticeTerms:
    """Return rows: (column,) of the nodes in `factors`, whose channels `gram.channel` counts."""
    nodes, back = np.unique(rows, return_inverse=True)
    return LatticeTerms(
        gram,
        factors.without_sites(nodes)[back, gram.channel],
        factors.groups[: factors.n_sites, rows],
    )


def rows(factors: StructureFactors, hkl: np.ndarray) -> np.ndarray:
    """Return (n,) rows of nodes (n, 3) in `factors`; -1 where it has none."""
    size = 2 * int(max(np.abs(factors.hkl).max(initial=0), np.abs(hkl).max(initial=0))) + 1

    def key(h):
        return h.astype(np.int64) @ np.array([size * size, size, 1])

    have = key(np.asarray(factors.hkl))
    order = np.argsort(have)
    found = order[np.minimum(np.searchsorted(have[order], wanted := key(hkl)), len(order) - 1)]
    return np.where(have[found] == wanted, found, -1)


def expand(of: LatticeTerms, curves: np.ndarray) -> Normal:
    """Return one lattice about the curves (site, 2, channel): f′, f″; parameters are all their
    values in this order.

    What stage 1 refines is eliminated, to first order.
    """
    gram = of.gram
    n_channels = curves.shape[2]
    F, D = derivatives(of, curves)
    y = np.abs(F) ** 2 - gram.intensity
    hessian, pulled = _blocks(gram, D, y, n_channels)
    left = gram.score - y @ gram.cross
    moved = np.linalg.solve(gram.nuisance, left)
    slope = pulled - gram.slope + gram.cross @ moved
    across = shared(gram, D, n_channels)
    hessian -= across @ np.linalg.solve(gram.nuisance, across.T)
    gradient = np.concatenate([by_channel(gram.channel, n_channels) @ (d * slope) for d in D])
    loss = gram.loss + 0.5 * y @ pulled - gram.slope @ y - 0.5 * left @ moved
    return Normal(np.array([loss]), gradient[None], hessian)


def derivatives(of: LatticeTerms, curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return F (column,), and d|F|² by f′, f″ of each site (2·site, column)."""
    F = of.fixed + (of.groups * (curves[:, 0] + 1j * curves[:, 1])[:, of.gram.channel]).sum(axis=0)
    product = 2.0 * np.conj(F) * of.groups
    return F, np.stack([product.real, -product.imag], axis=1).reshape(-1, len(F))


def shared(gram: Gram, D: np.ndarray, n_channels: int) -> np.ndarray:
    """Return (value, unknown) information that the curves' values share with what stage 1 refines.
    D: (2·site, column).
    """
    return np.concatenate(
        [by_channel(gram.channel, n_channels) @ (d[:, None] * gram.cross) for d in D]
    )


def by_channel(channel: np.ndarray, n_channels: int) -> csr_matrix:
    """Return (channel, column) that sums columns of a channel; channel: (column,)."""
    n = len(channel)
    return csr_matrix((np.ones(n), (channel, np.arange(n))), shape=(n_channels, n))


def _blocks(
    gram: Gram, D: np.ndarray, y: np.ndarray, n_channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return Σ D G Dᵀ by curve and channel (curve · channel, the same), and G y (column,). D:
    (curve, column).
    """
    n = len(D)
    total = np.zeros((n, n, n_channels, n_channels))
    pulled = np.empty(len(y))
    done = 0
    for a, b in pairwise(gram.start):
        G = square(gram.normal[done : (done := done + (b - a) * (b - a + 1) // 2)], b - a)
        pulled[a:b] = G @ y[a:b]
        runs = _runs(gram.channel[a:b])
        for r0, r1 in runs:
            first = gram.channel[a + r0]
            for c0, c1 in runs:
                where = (
                    slice(first, first + r1 - r0),
                    slice(gram.channel[a + c0], gram.channel[a + c0] + c1 - c0),
                )
                for s in range(n):
                    left = D[s, a + r0 : a + r1, None] * G[r0:r1, c0:c1]
                    for t in range(s, n):
                        total[s, t, *where] += left * D[t, a + c0 : a + c1]
    for s in range(n):
        for t in range(s):
            total[s, t] = total[t, s].T
    return total.transpose(0, 2, 1, 3).reshape(n * n_channels, -1), pulled


@cache
def _triangle(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.tril_indices(n)


def square(packed: np.ndarray, n: int) -> np.ndarray:
    """Return (n, n) the symmetric matrix of a packed lower triangle."""
    out = np.empty((n, n))
    row, column = _triangle(n)
    out[row, column] = out[column, row] = packed
    return out


def _runs(channel: np.ndarray) -> list[tuple[int, int]]:
    """Return first and last + 1 of the columns of each reflection: their channels follow one
    another.
    """
    if not len(channel):
        return []
    ends = np.flatnonzero(np.diff(channel) != 1) + 1
    return list(pairwise([0, *ends.tolist(), len(channel)]))


def normal(lattices: Iterable[LatticeTerms], p: Parametrisation, theta: np.ndarray) -> Normal:
    """Return the normal equations of lattices in the parameters θ, restraints left out."""
    curves = p.curves(theta)
    hessian = np.zeros((p.reference.size, p.reference.size))
    losses = [np.empty(0)]
    scores = [np.empty((0, p.reference.size))]
    for of in lattices:
        made = expand(of, curves)
        hessian += made.hessian
        losses.append(made.losses)
        scores.append(made.scores)
    return Normal(
        np.concatenate(losses), np.concatenate(scores) @ p.basis, p.basis.T @ hessian @ p.basis
    )


def joined(parts: Sequence[Normal]) -> Normal:
    """Return the normal equations of the lattices of all parts, in their order."""
    losses, scores = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("losses", "scores")
    )
    return Normal(losses, scores, np.sum([part.hessian for part in parts], axis=0))


def refine(
    evaluate: Evaluate, p: Parametrisation, theta: np.ndarray, n_cycles: int = MAX_STEPS
) -> RefinedCurves:
    """Return Gauss-Newton from θ (parameter,), damped (Marquardt 1963) after a step that went too
    far, as it does where pixels say little: |F|² is quadratic in the curves. evaluate: θ → `normal`
    of all lattices.
    """
    weighted = p.rows.T * p.precision
    steps = list[float]()
    damping = 0.0
    made = evaluate(theta)
    restraint = p.rows @ theta - p.target
    for _ in range(n_cycles):
        hessian = made.hessian + weighted @ p.rows
        gradient = made.scores.sum(axis=0) + weighted @ restraint
        if 0.5 * gradient @ np.linalg.solve(hessian, gradient) < SMALLEST_FALL:
            break
        step = -np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)), gradient)
        trial = evaluate(theta + step)
        pulled = restraint + p.rows @ step
        fall = made.losses - trial.losses
        if fall.sum() + 0.5 * p.precision @ (restraint**2 - pulled**2) < 0.0:
            damping = max(4.0 * damping, LEAST_DAMPING)
            continue
        damping = damping / 4.0 if damping > LEAST_DAMPING else 0.0
        theta = theta + step
        made = trial
        restraint = pulled
        steps.append(float(np.abs(p.basis @ step).max()))
    return RefinedCurves(
        theta, made.losses, made.hessian + weighted @ p.rows, made.hessian, made.scores, steps
    )


def residuals(lattices: Iterable[LatticeTerms], curves: np.ndarray) -> np.ndarray:
    """Return (2, channel): of Σ slope·|F|² and Σ normal·|F|⁴ over the columns of a channel, their
    shoeboxes' own alone.

    The first over the second is (data − model)/model of a channel's Bragg photons if all else is
    right.
    """
    n_channels = curves.shape[2]
    total = np.zeros((2, n_channels))
    for of in lattices:
        gram = of.gram
        intensity = np.abs(derivatives(of, curves)[0]) ** 2
        y = intensity - gram.intensity
        done = 0
        left = gram.slope - gram.cross @ np.linalg.solve(gram.nuisance, gram.score - y @ gram.cross)
        for a, b in pairwise(gram.start):
            G = square(gram.normal[done : (done := done + (b - a) * (b - a + 1) // 2)], b - a)
            slope = intensity[a:b] * (left[a:b] - G @ y[a:b])
            total[0] += np.bincount(gram.channel[a:b], slope, n_channels)
            total[1] += np.bincount(gram.channel[a:b], intensity[a:b] ** 2 * np.diag(G), n_channels)
    return total
