"""How far the lattices show each reflection brighter or dimmer than their models do.

What a model has wrong of a lattice's mosaicity makes a reflection brighter, or dimmer, by a factor
of its own; left alone, that would pass for X. The factor is 1 + s, s normal with a standard
deviation that all reflections share, the *scatter*; s is integrated out of the Gram matrices. The
scatter is found by scoring, after the restricted maximum likelihood of Patterson & Thompson (1971,
Biometrika 58, 545): the slope of −ln L by s has, where the scatter is right, the variance IᵀGI less
what X and lattice have followed.
"""

import numpy as np

from spreadflow.analysis.curves import loops
from spreadflow.analysis.curves.columns import Columns
from spreadflow.analysis.curves.expand import complex_curves
from spreadflow.analysis.curves.objective import Point, Problem
from spreadflow.analysis.scoring import Evidence, better

FIRST = 0.1
"""Scatter with which the search for it begins."""

LARGEST = 1.0
"""Scatter beyond which lattices have no model: it grows no further."""

RELAXATION = 0.5
"""Share of the change that lattices ask for, which is made at a time: X follows, and asks for less.
"""

SMALLEST_CHANGE = 0.003
"""Change of the scatter that no longer counts."""


def scattered(columns: Columns, scatter: float) -> Columns:
    """Return the columns of lattices whose reflections scatter about their models.

    The parabola of a shoebox is that with the factors where they are likeliest.
    """
    if scatter == 0.0:
        return columns
    normal, slope, cross, shared, score, loss = loops.scattered(columns, scatter**2)
    held = np.linalg.inv(np.linalg.inv(columns.held) - shared)
    return columns._replace(
        normal=normal, slope=slope, cross=cross, held=held, score=score, loss=loss
    )


def likelier(problem: Problem, point: Point, scatter: float) -> float:
    """Return the scatter that all lattices ask for in place of the one that they have. Collective.

    problem: its columns scatter already; point: where curves and X are.
    """
    own = loops.of_factors(
        problem.columns,
        complex_curves(problem.p.curves(point.theta)),
        point.x,
        problem.of_sites(point.theta),
        point.slopes,
        point.covariance,
    )
    total = Evidence(*problem.add(np.array(own)))
    return min(better(scatter, total, RELAXATION), LARGEST)
