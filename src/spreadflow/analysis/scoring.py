"""A scatter of models, found by scoring the restricted likelihood (Patterson & Thompson 1971,
Biometrika 58, 545): what slopes of −ln L have beyond the variance that all else leaves them.
"""

from typing import NamedTuple

import numpy as np

LARGEST_SQUARE = 4.0
"""Square of a slope over its variance, at most: a few reflections have no model at all."""

MEAN_OF_SQUARES = 0.9206
"""Mean of min(z², `LARGEST_SQUARE`) of a standard normal z."""

LEAST_LEFT = 1e-3
"""Part of the information of a reflection in a lattice that all else must leave for its slope to
say anything.
"""


class Evidence(NamedTuple):
    """What slopes say about a scatter. Sums: those of batches and ranks add up."""

    excess: float
    """of squares of slopes over their variances"""
    information: float
    """by which it is divided: the change of the scatter's square"""


def better(scatter: float, total: Evidence, share: float = 1.0) -> float:
    """Return the scatter that evidence from all lattices asks for in place of `scatter`.

    share: of the change of its square, which is made.
    """
    if total.information <= 0.0:
        return scatter
    return float(np.sqrt(max(scatter**2 + share * total.excess / total.information, 0.0)))
