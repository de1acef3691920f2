"""SPREAD: f′(E) and f″(E) of each metal site from the Gram matrices of many lattices.

|F|² is quadratic in the curves, and where these are known to an electron or two it is so nearly
linear that Gauss-Newton needs few steps. A step costs milliseconds a lattice and no pixels,
whatever the grid of energies, the restraints or the dispersion relation.
"""

from collections.abc import Callable, Iterable, Sequence
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

MAX_SHARE = 0.99
"""Largest share of one lattice in what is known of a combination of the unknowns that its score is
corrected for: nearer to 1 its score is what the last step left.
"""

LEAST_DAMPING = 0.1
"""Damping of a refinement that needs any, relative to the diagonal of the normal matrix."""


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
"""Parameters θ → the normal equations of lattices about θ."""


class RefinedCurves(NamedTuple):
    """Curves that make the pixels likeliest, restraints included."""

    theta: np.ndarray
    """(parameter,)"""
    losses: np.ndarray
    """(lattice,) −ln L, restraints left out"""
    hessian: np.ndarray
    """(parameter, parameter) information of pixels and restraints"""
    of_pixels: np.ndarray
    """(parameter, parameter) information of the pixels alone"""
    scores: np.ndarray
    """(lattice, parameter) gradients there. Each lattice drew the curves to itself, so that they
    scatter too little, unless `unbiased` has corrected them.
    """
    steps: list[float]
    """largest change of the curves at each step, electrons"""

    @property
    def fisher(self) -> np.ndarray:
        """(parameter, parameter) covariance if the model is right."""
        return np.linalg.inv(self.hessian)

    @property
    def scatter(self) -> np.ndarray:
        """(parameter, parameter) covariance of the pixels' slope from the scatter of the lattices,
        Σ g gᵀ.
        """
        return self.scores.T @ self.scores

    @property
    def sandwich(self) -> np.ndarray:
        """(parameter, parameter) covariance from the scatter of the lattices: honest where the
        model is wrong, too.
        """
        return self.covariance(self.scatter)

    def covariance(self, noise: np.ndarray) -> np.ndarray:
        """Return the covariance H⁻¹(noise + R)H⁻¹ (parameter, parameter) (Huber 1967, White 1982),
        in which the restraints R are taken at their word.

        noise: (parameter, parameter) covariance of the pixels' slope, which is their information
        where the model is right.
        """
        inverse = self.fisher
        return inverse @ (noise + self.hessian - self.of_pixels) @ inverse


def lattice(gram: Gram, factors: StructureFactors, rows: np.ndarray) -> LatticeTerms:
    """Return a lattice with what F of its columns is made of.

    rows: (column,) of the nodes in `factors`, whose channels are those that `gram.channel` counts.
    """
    nodes, back = np.unique(rows, return_inverse=True)
    return LatticeTerms(
        gram=gram,
        fixed=factors.without_sites(nodes)[back, gram.channel],
        groups=factors.groups[: factors.n_sites, rows],
    )


def rows(factors: StructureFactors, hkl: np.ndarray) -> np.ndarray:
    """Return the rows (n,) of nodes (n, 3) in `factors`; −1 where it has none."""
    largest = max(np.abs(factors.hkl).max(initial=0), np.abs(hkl).max(initial=0))
    size = 2 * int(largest) + 1

    def key(h):
        return h.astype(np.int64) @ np.array([size * size, size, 1])

    keys = key(np.asarray(factors.hkl))
    wanted = key(hkl)
    order = np.argsort(keys)
    place = np.searchsorted(keys[order], wanted)
    row = order[np.minimum(place, len(order) - 1)]
    return np.where(keys[row] == wanted, row, -1)


def expand(terms: LatticeTerms, curves: np.ndarray) -> Normal:
    """Return −ln L of one lattice about curves (site, 2, channel) f′, f″, whose values in this
    order are the parameters.

    What stage 1 refines is eliminated, to first order.
    """
    gram = terms.gram
    n_channels = curves.shape[2]
    F, D = derivatives(terms, curves)
    y = np.abs(F) ** 2 - gram.intensity
    hessian, pulled = _blocks(gram, D, y, n_channels)

    # u: the change of what stage 1 refines that suits y best
    score = gram.score - y @ gram.cross
    u = np.linalg.solve(gram.nuisance, score)
    slope = pulled - gram.slope + gram.cross @ u
    across = shared(gram, D, n_channels)
    hessian -= across @ np.linalg.solve(gram.nuisance, across.T)

    sums = by_channel(gram.channel, n_channels)
    gradient = np.concatenate([sums @ (d * slope) for d in D])
    loss = gram.loss + 0.5 * y @ pulled - gram.slope @ y - 0.5 * score @ u
    return Normal(np.array([loss]), gradient[None], hessian)


def derivatives(terms: LatticeTerms, curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return F (column,), and the derivatives of |F|² by f′, f″ of each site (2·site, column)."""
    fp = curves[:, 0]
    fdp = curves[:, 1]
    anomalous = (fp + 1j * fdp)[:, terms.gram.channel]
    of_sites = terms.groups * anomalous
    F = terms.fixed + of_sites.sum(axis=0)

    product = 2.0 * np.conj(F) * terms.groups
    by_curve = np.stack([product.real, -product.imag], axis=1)
    return F, by_curve.reshape(-1, len(F))


def shared(gram: Gram, D: np.ndarray, n_channels: int) -> np.ndarray:
    """Return the information (value, unknown) that the curves' values share with what stage 1
    refines. D: (2·site, column).
    """
    sums = by_channel(gram.channel, n_channels)
    return np.concatenate([sums @ (d[:, None] * gram.cross) for d in D])


def by_channel(channel: np.ndarray, n_channels: int) -> csr_matrix:
    """Return the matrix (channel, column) that sums the columns of a channel; channel:
    (column,).
    """
    n = len(channel)
    return csr_matrix((np.ones(n), (channel, np.arange(n))), shape=(n_channels, n))


def _blocks(
    gram: Gram, D: np.ndarray, y: np.ndarray, n_channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return Σ D G Dᵀ (curve · channel, the same) over the shoeboxes' matrices G, and G y
    (column,). D: (curve, column).
    """
    n = len(D)
    total = np.zeros((n, n, n_channels, n_channels))
    pulled = np.empty(len(y))
    for columns, G in gram.matrices():
        pulled[columns] = G @ y[columns]
        _add_products(total, G, D[:, columns], gram.channel[columns])
    for s in range(n):
        for t in range(s):
            total[s, t] = total[t, s].T
    return total.transpose(0, 2, 1, 3).reshape(n * n_channels, -1), pulled


def _add_products(total: np.ndarray, G: np.ndarray, D: np.ndarray, channel: np.ndarray) -> None:
    """Add D G Dᵀ of one shoebox to the upper half of `total` (curve, curve, channel, channel)."""
    runs = _runs(channel)
    for rows in runs:
        for columns in runs:
            block = G[rows, columns]
            place = (_channels(channel, rows), _channels(channel, columns))
            for s in range(len(D)):
                left = D[s, rows, None] * block
                for t in range(s, len(D)):
                    total[s, t, *place] += left * D[t, columns]


def _runs(channel: np.ndarray) -> list[slice]:
    """Return the columns of each reflection of a shoebox: their channels follow one another."""
    if not len(channel):
        return []
    ends = np.flatnonzero(np.diff(channel) != 1) + 1
    return [slice(first, last) for first, last in pairwise([0, *ends.tolist(), len(channel)])]


def _channels(channel: np.ndarray, run: slice) -> slice:
    """Return the channels of a run of columns."""
    first = channel[run.start]
    return slice(first, first + run.stop - run.start)


def normal(lattices: Iterable[LatticeTerms], p: Parametrisation, theta: np.ndarray) -> Normal:
    """Return the normal equations of lattices in the parameters θ, without restraints."""
    curves = p.curves(theta)
    n_values = p.reference.size
    hessian = np.zeros((n_values, n_values))
    losses = [np.empty(0)]
    scores = [np.empty((0, n_values))]
    for terms in lattices:
        of_lattice = expand(terms, curves)
        hessian += of_lattice.hessian
        losses.append(of_lattice.losses)
        scores.append(of_lattice.scores)
    return Normal(
        losses=np.concatenate(losses),
        scores=np.concatenate(scores) @ p.basis,
        hessian=p.basis.T @ hessian @ p.basis,
    )


def joined(parts: Sequence[Normal]) -> Normal:
    """Return the normal equations of the lattices of all parts, in their order."""
    return Normal(
        losses=np.concatenate([part.losses for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        hessian=np.sum([part.hessian for part in parts], axis=0),
    )


def refine(
    evaluate: Evaluate, p: Parametrisation, theta: np.ndarray, n_cycles: int = MAX_STEPS
) -> RefinedCurves:
    """Refine curves by Gauss-Newton from θ (parameter,).

    Steps are damped (Marquardt 1963) after one that went too far, as happens where pixels say
    little: |F|² is quadratic in the curves. evaluate: θ → `normal` of all lattices.
    """
    weighted = p.rows.T * p.precision
    restraints = weighted @ p.rows
    steps = list[float]()
    damping = 0.0
    best = evaluate(theta)
    away = p.rows @ theta - p.target
    for _ in range(n_cycles):
        hessian = best.hessian + restraints
        gradient = best.scores.sum(axis=0) + weighted @ away
        promise = 0.5 * gradient @ np.linalg.solve(hessian, gradient)
        if promise < SMALLEST_FALL:
            break

        damped = hessian + damping * np.diag(np.diag(hessian))
        step = -np.linalg.solve(damped, gradient)
        trial = evaluate(theta + step)
        away_there = away + p.rows @ step
        fall = (best.losses - trial.losses).sum()
        fall_of_restraints = 0.5 * p.precision @ (away**2 - away_there**2)
        if fall + fall_of_restraints < 0.0:
            damping = max(4.0 * damping, LEAST_DAMPING)
            continue

        damping = damping / 4.0 if damping > LEAST_DAMPING else 0.0
        theta = theta + step
        best = trial
        away = away_there
        steps.append(float(np.abs(p.basis @ step).max()))
    return RefinedCurves(
        theta=theta,
        losses=best.losses,
        hessian=best.hessian + restraints,
        of_pixels=best.hessian,
        scores=best.scores,
        steps=steps,
    )


def unbiased(score: np.ndarray, information: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return the gradient (parameter,) of one lattice about the refined curves as large as it is
    about the true ones, on average.

    Curves follow each lattice by its share in all that is known, H = `information` (parameter,
    parameter) times A = `covariance` (parameter, parameter), Fisher's of the refined curves: g gᵀ
    is H − H A H instead of H. (1 − H A)^(−½) g restores it (Bell & McCaffrey 2002, Survey
    Methodology 28, 169: CR2). Without this, σ from the scatter of few lattices is too small.
    """
    root = np.linalg.cholesky(covariance)
    shares, directions = np.linalg.eigh(root.T @ information @ root)
    whitened = directions.T @ (root.T @ score)
    restored = whitened / np.sqrt(1.0 - np.clip(shares, 0.0, MAX_SHARE))
    return np.linalg.solve(root.T, directions @ restored)


def residuals(lattices: Iterable[LatticeTerms], curves: np.ndarray) -> np.ndarray:
    """Return the sums (2, channel) of slope·|F|² and of normal·|F|⁴ over the columns of a channel,
    normal being the diagonal of the shoeboxes' matrices.

    The first over the second is (data − model)/model of a channel's Bragg photons if all else is
    right.
    """
    n_channels = curves.shape[2]
    total = np.zeros((2, n_channels))
    for terms in lattices:
        gram = terms.gram
        F, _ = derivatives(terms, curves)
        intensity = np.abs(F) ** 2
        y = intensity - gram.intensity
        u = np.linalg.solve(gram.nuisance, gram.score - y @ gram.cross)
        left = gram.slope - gram.cross @ u
        for columns, G in gram.matrices():
            channel = gram.channel[columns]
            bright = intensity[columns]
            slope = bright * (left[columns] - G @ y[columns])
            square = bright**2 * np.diag(G)
            total[0] += np.bincount(channel, slope, n_channels)
            total[1] += np.bincount(channel, square, n_channels)
    return total
