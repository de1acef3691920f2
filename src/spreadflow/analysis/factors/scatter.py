"""How far what lattices show of a reflection scatters about its intensity, beyond the pixels' noise
and what is known to make it scatter.

The scatter is a common fraction of the intensities. The slope of −ln L by the scatter of a column
has, where the fraction is right, the variance P = b f − f² cᵀN⁻¹c: b the column's information,
f = 1 − b/Σb what the reflection's intensity leaves of it, c what it shares with its lattice, N what
other columns tell of the lattice once intensities are unknown. The fraction is found by scoring,
after the restricted maximum likelihood of Patterson & Thompson (1971, Biometrika 58, 545); squares
beyond 4 P count as 4, as a few columns have no model at all.
"""

import numpy as np

from spreadflow.analysis.factors.equations import Batch, Parabolas, by_lattice
from spreadflow.analysis.factors.solution import Solution
from spreadflow.analysis.scoring import LARGEST_SQUARE, LEAST_LEFT, MEAN_OF_SQUARES, Evidence


def evidence(
    batch: Batch,
    of_lattices: Parabolas,
    solution: Solution,
    about: np.ndarray,
    information: np.ndarray,
) -> Evidence:
    """Return what the columns of a batch say about the fraction with which they were expanded.

    of_lattices: their parabolas about intensities `about` (reflection,); solution: of all lattices,
    its unknowns those of the batch; information: (reflection,) of all lattices.
    """
    unique = batch.unique
    own = of_lattices.information
    total = np.maximum(information[unique], own)
    left = 1.0 - own / np.where(total > 0, total, 1.0)

    prior = solution.prior
    a = prior.direction
    outer = of_lattices.cross[:, :, None] * of_lattices.cross[:, None, :]
    of_intensities = outer / np.where(total > 0, total, np.inf)[:, None, None]
    nuisance = of_lattices.nuisance + np.outer(a, a) / prior.spread**2
    known = nuisance - by_lattice(of_intensities, batch.lattice, len(nuisance))
    held = np.linalg.inv(known)[batch.lattice]
    explained = np.einsum("ci,cij,cj->c", of_lattices.cross, held, of_lattices.cross)
    variance = own * left - left**2 * explained

    slope = of_lattices.slope - np.einsum(
        "ci,ci->c", of_lattices.cross, solution.unknowns[batch.lattice]
    )
    change = (solution.intensity - about)[unique]
    for columns, normal in of_lattices.boxes:
        slope[columns] -= np.einsum("bij,bj->bi", normal, change[columns])

    says = variance > LEAST_LEFT * own
    of_fraction = about[unique][says] ** 2 * variance[says]
    squares = np.minimum(slope[says] ** 2 / variance[says], LARGEST_SQUARE) / MEAN_OF_SQUARES
    return Evidence(float(of_fraction @ (squares - 1.0)), float(of_fraction @ of_fraction))
