"""Whether the pixels of a lattice improve on what its spots had told.

Orientation, cell and distance are known from spots before any pixel is fitted. They are replaced
only where shoeboxes that were not fitted are expected to be likelier. Near the minimum, leaving a
shoebox out moves the unknowns by m = (H − I_b)⁻¹ s_b, with the information H of all, I_b and score
s_b of the shoebox, and raises its −ln L by s_bᵀ m + mᵀ I_b m/2. Summed over shoeboxes this is to
first order the criterion of Takeuchi (1976, Suri Kagaku 153, 12), which holds for wrong models,
too; of a right one it is the number of unknowns (Akaike).
"""

import numpy as np

from spreadflow.analysis import least_squares
from spreadflow.analysis.orientation_matrix import at_start
from spreadflow.analysis.pixels import lattice_fit, solve
from spreadflow.analysis.pixels.restraints import Unknown

OF_SPOTS: tuple[Unknown, ...] = ("rotation", "cell", "distance", "wavelength")
"""Unknowns that spots tell."""


def expected_loss(point: solve.Point) -> float:
    """Return the sum of −ln L of the shoeboxes, each where a fit of the others would have ended.
    Raises Unsolvable where the others say nothing of an unknown.
    """
    of_others = point.hessian - point.informations
    moves = least_squares.solve(of_others, point.scores[:, :, None])[:, :, 0]
    first = np.einsum("bi,bi->", point.scores, moves)
    second = np.einsum("bi,bij,bj->", moves, point.informations, moves)
    return point.loss + float(first + 0.5 * second)


def with_spots(
    problem: lattice_fit.Problem,
    refined: lattice_fit.RefinedLattice,
    free: tuple[Unknown, ...],
    **settings,
) -> lattice_fit.RefinedLattice:
    """Return the fit in which orientation, cell and distance stay where the problem starts, and the
    other unknowns begin where a fit of all ended.

    free: unknowns of that fit; settings: of `lattice_fit.refine`.
    """
    of_pixels = refined.parameters
    crystal = of_pixels.crystal._replace(A=at_start(problem.frame))
    parameters = of_pixels._replace(crystal=crystal, detector=problem.start.detector)
    rest = tuple(name for name in free if name not in OF_SPOTS)
    at_spots = lattice_fit.moved(problem, parameters)
    fit = lattice_fit.refine(at_spots, rest, is_rough=False, **settings)
    return fit._replace(
        loss_before=refined.loss_before,
        n_evaluations=refined.n_evaluations + fit.n_evaluations,
    )


def gain(of_pixels: lattice_fit.RefinedLattice, of_spots: lattice_fit.RefinedLattice) -> float:
    """Return by how much −ln L of shoeboxes that were not fitted is expected to be lower with
    orientation, cell and distance of the pixels than with those of spots.
    """
    return expected_loss(of_spots.fit.point) - expected_loss(of_pixels.fit.point)
