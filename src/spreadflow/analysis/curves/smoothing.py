"""How far a restraint to smoothness has moved curves from the truth.

Curves have edges: across one, f′ and f″ change by electrons within a node, ten times what a random
walk of the published width takes. The covariance (H + R)⁻¹ takes the restraint at its word and
knows nothing of that; its σ are 2-6 times too small there. The bias is linear in the true curves,
and their likeliest estimate that has edges is that of the dispersion relation.
"""

import numpy as np

from spreadflow.analysis.curves import dispersion
from spreadflow.analysis.curves.dispersion import PRIOR_E, Parametrisation

WIDTHS_E = np.geomspace(0.02, PRIOR_E, 60)
"""Standard deviations, e, of curves about the reference of which the likeliest is taken."""


def bias(
    p: Parametrisation, theta: np.ndarray, pixels: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """Return how far the restraints have likely moved θ (theta,) from the truth.

    theta: refined, where the slopes of pixels and restraints cancel; pixels: (theta, theta)
    information without restraints; noise: (theta, theta) covariance of the pixels' slope. With true
    θ₀ the expected θ is (H + R)⁻¹(H θ₀ + rowsᵀ precision target). The curves of the dispersion
    relation stand for the true ones.
    """
    fisher = np.linalg.inv(pixels + p.restraints)
    excess = max(np.trace(fisher @ noise) / np.trace(fisher @ pixels), 1.0)
    restraints_slope = p.rows.T @ (p.precision * (p.rows @ theta - p.target))
    right = pixels @ theta + restraints_slope
    likeliest = _likeliest(p, pixels / excess, right / excess)
    return fisher @ (p.rows.T @ (p.precision * (p.target - p.rows @ likeliest)))


def _likeliest(p: Parametrisation, pixels: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return θ (theta,) of the dispersion relation from pixels @ θ = right, about the reference.

    All unknowns of the relation are normal with one standard deviation, that of the largest
    evidence (MacKay 1992, Neural Comput. 4, 415): where pixels say little it is small, and the
    noise stays out of the bias.
    """
    pair = dispersion.kramers_kronig(p.reference, p.energies_ev, p.nodes_ev)
    of_pair = np.linalg.pinv(p.at_nodes) @ pair.at_nodes
    values, vectors = np.linalg.eigh(of_pair.T @ pixels @ of_pair)
    information = np.maximum(values, 0.0)
    along = vectors.T @ (of_pair.T @ right)

    prior = WIDTHS_E[:, None] ** -2.0
    gained = along**2 / (information + prior)
    evidence = 0.5 * (gained - np.log1p(information / prior)).sum(axis=1)
    best = prior[evidence.argmax()]
    return of_pair @ (vectors @ (along / (information + best)))
