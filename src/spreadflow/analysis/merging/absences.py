"""Axial reflections that a screw axis would forbid, which the space group does not have: are they
there?
"""

from typing import NamedTuple

import gemmi
import numpy as np
import scipy

from spreadflow.analysis.merging.merging import Merged, Unique

PERIODS = {2: (2,), 3: (3,), 4: (4, 2), 6: (6, 3, 2)}
"""Order of a rotation axis → n, the strictest first: the screw axes along it let only every n-th
axial reflection be.
"""

LARGEST_SIGMA = 0.3
"""Largest σ, over the mean intensity of its shell, of a reflection that can tell how weak it is."""

LARGEST_STRENGTH = 0.3
"""Mean intensity, over that of the shell, of what a screw axis forbids: for each remainder of the
index alone, since 0 0 2 may be there where 0 0 1 and 0 0 3 are not.
"""

IMPROBABLE = 1e-3
"""A screw axis is suspected where intensities so weak are less probable than this without one."""


class Suspect(NamedTuple):
    """A screw axis that the data hint at."""

    axis: str
    """a, b or c"""
    period: int
    """axial reflections of other multiples are weak"""
    n_weak: int
    """of these measured"""
    strength: float
    """their mean intensity over that of their shells"""
    probability: float
    """of so little without a screw axis"""

    def condition(self) -> str:
        """Return which reflections are weak, in words."""
        indices = ["0", "0", "0"]
        letter = "hkl"["abc".index(self.axis)]
        indices["abc".index(self.axis)] = letter
        return f"{' '.join(indices)} with {letter} other than {self.period} n"


def suspected_screws(merged: Merged, unique: Unique) -> list[Suspect]:
    """Return the screw axes that the space group lacks and the intensities hint at.

    Axial reflections are centric: I over the mean of the shell is χ² of one degree of freedom
    (Wilson 1949).
    """
    is_measured = merged.n > 0
    strength = np.zeros(len(unique))
    total = np.bincount(
        unique.shell[is_measured], merged.intensity[is_measured], unique.shell.max() + 1
    )
    count = np.bincount(unique.shell[is_measured], minlength=unique.shell.max() + 1)
    mean = (total / np.maximum(count, 1))[unique.shell]
    is_strong_shell = is_measured & (mean > 0)
    strength[is_strong_shell] = merged.intensity[is_strong_shell] / mean[is_strong_shell]
    tells = is_strong_shell & (merged.sigma < LARGEST_SIGMA * mean)

    suspects = []
    for number, axis in enumerate("abc"):
        others = [i for i in range(3) if i != number]
        is_axial = tells & (unique.hkl[:, others] == 0).all(axis=1)
        index = np.abs(unique.hkl[:, number])
        for period in PERIODS.get(_order(unique.space_group, number), ()):
            is_forbidden = is_axial & (index % period != 0)
            n_weak = int(is_forbidden.sum())
            if not n_weak:
                continue
            strengths = np.maximum(strength[is_forbidden], 0.0)
            remainder = index[is_forbidden] % period
            of_remainders = [strengths[remainder == r].mean() for r in np.unique(remainder)]
            if max(of_remainders) >= LARGEST_STRENGTH:
                continue
            sum_of_strengths = strengths.sum()
            probability = float(scipy.special.chdtr(n_weak, sum_of_strengths))
            if probability < IMPROBABLE:
                suspects.append(
                    Suspect(
                        axis=axis,
                        period=period,
                        n_weak=n_weak,
                        strength=float(sum_of_strengths / n_weak),
                        probability=probability,
                    )
                )
                break
    return suspects


def _order(space_group: gemmi.SpaceGroup, axis: int) -> int:
    """Return the order of the rotation axis along a basis vector, 1 where there is none."""
    unit = np.eye(3)[axis]
    order = 1
    for operation in space_group.operations().sym_ops:
        rotation = np.array(operation.rot) / gemmi.Op.DEN
        keeps_axis = np.allclose(rotation @ unit, unit) and np.linalg.det(rotation) > 0
        if keeps_axis:
            power = rotation
            n = 1
            while not np.allclose(power, np.eye(3)):
                power = power @ rotation
                n += 1
            order = max(order, n)
    return order
