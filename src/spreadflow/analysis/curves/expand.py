"""SPREAD: f′(E) and f″(E) of each metal site from the Gram matrices of many lattices.

|F|² is quadratic in the curves, and where these are known to an electron or two it is so nearly
linear that Gauss-Newton needs few steps. A step costs milliseconds a lattice and no pixels,
whatever the grid of energies, the restraints or the dispersion relation.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.curves import loops
from spreadflow.analysis.curves.columns import Columns
from spreadflow.analysis.curves.dispersion import Parametrisation

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


NO_REST = np.zeros((1, 2))
"""Deviations of X from the model's, where there are none."""

NO_SITES = np.zeros(0)
"""Unknowns of sites, where there are none."""

NO_COVARIANCE = np.zeros((1, 3))
"""Their covariance."""


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


class FittedRest(NamedTuple):
    """X of every unique reflection, as refined with the curves."""

    hkl: np.ndarray
    """(reflection, 3) in the asymmetric unit"""
    x: np.ndarray
    """(reflection, 2) a and b, electrons"""
    sigma: np.ndarray
    """(reflection, 2) their standard deviations, all else held"""
    variance: np.ndarray
    """(shell,) S, electrons²; relative to |X|² where X is real"""
    scatter: float
    """of the reflections of a lattice about their models, relative"""
    log_scale: float
    """ln of Σ|F|² over Σ(|M|² + S), M the F of the start"""
    largest_share: float
    """largest √S of a shell over the r.m.s. |X| of its model"""
    has_converged: bool
    with_x_held: np.ndarray | None = None
    """(parameter, parameter) what the pixels would say about the curves if X were known"""

    def rounded(self, decimals: int) -> "FittedRest":
        """Return it with a and b rounded to decimals of an electron."""
        return self._replace(x=np.round(self.x, decimals))


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
    """(lattice, parameter) gradients there; (reflection, parameter) where X is unknown. Each
    lattice drew the curves to itself, so that they scatter too little, unless `unbiased` has
    corrected them.
    """
    steps: list[float]
    """largest change of the curves at each step, electrons"""
    value: float = 0.0
    """what was made least: −ln L, with the restraints, and with those of X where it is unknown"""
    rest: FittedRest | None = None
    """X, where it is unknown"""

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


def complex_curves(curves: np.ndarray) -> np.ndarray:
    """Return f′ + i f″ (site, channel) of curves (site, 2, channel)."""
    return np.ascontiguousarray(curves[:, 0] + 1j * curves[:, 1])


def expand(columns: Columns, curves: np.ndarray) -> Normal:
    """Return −ln L of lattices about curves (site, 2, channel) f′, f″, whose values in this order
    are the parameters; X is that of the model.

    What stage 1 refines is eliminated, to first order.
    """
    f = complex_curves(curves)
    columns = columns.of_model()
    no_pull = np.empty(0)
    losses, _, forces, _ = loops.forces(columns, f, NO_REST, NO_SITES, NO_COVARIANCE, -1, no_pull)
    n = len(losses)
    scores, _ = loops.scores(columns, forces, f, NO_SITES, columns.lattice, n)
    halves, shared = loops.by_curves(columns, f, NO_REST, NO_SITES)
    n_unknowns = shared.shape[1]
    hessian = symmetric(halves).transpose(1, 0, 3, 2).reshape(curves.size, curves.size)
    across = shared.transpose(0, 1, 3, 2).reshape(n, n_unknowns, curves.size)
    rooted = np.einsum("luv,lut->lvt", np.linalg.cholesky(columns.held), across)
    rooted = rooted.reshape(-1, curves.size)
    return Normal(losses, scores.reshape(n, curves.size), hessian - rooted.T @ rooted)


def symmetric(halves: np.ndarray) -> np.ndarray:
    """Return second derivatives (channel, curve, channel, curve) of `loops.by_curves`, which has
    them (channel, curve, curve, channel) less their transpose.
    """
    ordered = halves.transpose(0, 1, 3, 2)
    return ordered + ordered.transpose(2, 3, 0, 1)


def normal(columns: Columns, p: Parametrisation, theta: np.ndarray) -> Normal:
    """Return the normal equations of lattices in the parameters θ, without restraints."""
    of_values = expand(columns, p.curves(theta))
    return Normal(
        losses=of_values.losses,
        scores=of_values.scores @ p.basis,
        hessian=p.basis.T @ of_values.hessian @ p.basis,
    )


def joined(parts: Sequence[Normal]) -> Normal:
    """Return the normal equations of the lattices of all parts, in their order."""
    return Normal(
        losses=np.concatenate([part.losses for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        hessian=np.sum([part.hessian for part in parts], axis=0),
    )


def refine(
    evaluate: Evaluate, p: Parametrisation, theta: np.ndarray, max_steps: int = MAX_STEPS
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
    for _ in range(max_steps):
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
        value=float(best.losses.sum() + 0.5 * p.precision @ away**2),
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
