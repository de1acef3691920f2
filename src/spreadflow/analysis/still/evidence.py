"""What the integrated reflections of a lattice say of it: whether it is there at all, and to which
resolution.

A search over all orientations always finds one that puts some nodes on spots, however wrong. But
most of the well recorded predictions of a lattice that is there carry signal, also where no spot
was found, and those of one that is not carry no more than the same predictions anywhere else on the
image: turned about the beam, they meet the same background, rings of ice and density of other
lattices' spots.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.still.prediction import Predicted
from spreadflow.models import Detector, ReflectionFlag, Reflections
from spreadflow.physics import geometry, rotation

CONTROL_TURNS_RAD = np.deg2rad([37.0, -53.0])
"""Turns about the beam of the predictions that are compared with: no axis of a crystal turns it on
itself by these.
"""

N_CONTROL = 200
"""Predictions of a lattice that each turn compares with, at most: their mean tells chance to a
twentieth of σ.
"""

LARGEST_Z = 4.0
"""I/σ beyond which a reflection counts no more: one bright spot of something else is no evidence.
"""

SIGNAL_Z = 3.0
"""I/σ above which a prediction carries signal."""

LEAST_SIGNIFICANCE = 4.0
"""Standard deviations by which the mean I/σ of the predictions of a lattice exceeds chance where no
spot was found. Simulated lattices that are right have 4 to 15 (the fewer the more of them the spot
finder sees), those turned by a quarter of a degree 3, and wrong ones -1 to 2.
"""

LEAST_SHARE = 0.25
"""Share of the well recorded predictions that carry signal. Simulated lattices that are right have
0.8, faint ones of 10 to 20 spots 0.3 to 0.7, those turned by a quarter of a degree 0.2, and wrong
ones 0.02.
"""

WELL_RECORDED = 0.3
"""Partiality from which a reflection is well recorded."""

SPOTS_WITHIN = 10.0
"""Percentile of the spots' d: predictions beyond this do not count in the share."""

LEAST_MEAN_Z = 0.15
"""Mean I/σ below which reflections are not worth having: a hundred of them know less than one that
is seen at 1.5 σ. Noise alone takes the resolution limit about 1/(2 · 0.15²) = 22 reflections too
far.
"""


class Evidence(NamedTuple):
    """What speaks for a lattice."""

    n_sound: int
    """predictions that were integrated without failure or overlap"""
    n_signal: int
    """those of them above 3 σ"""
    share_signal: float
    """of the sound and well recorded predictions within the resolution of the spots, those above 3
    σ
    """
    n_by_chance: float
    """those that would be above 3 σ if the lattice were not there: of turned predictions, as many
    """
    significance: float
    """mean I/σ of predictions on which no spot was found, minus that of turned ones, over the
    standard deviation of the difference
    """
    d_min: float
    """resolution beyond which there is no signal, Å; of a lattice that is not there, that of its
    finest prediction
    """

    @property
    def is_enough(self) -> bool:
        """Whether the lattice is there."""
        return self.significance > LEAST_SIGNIFICANCE or self.share_signal > LEAST_SHARE


def turned(predicted: Predicted, detector: Detector, angle_rad: float) -> Predicted:
    """Return at most `N_CONTROL` of the predictions, evenly chosen, turned about the beam. Those
    that meet no panel are left out.
    """
    every = max(1, -(-len(predicted.hkl) // N_CONTROL))
    thinned = Predicted(*(column[::every] for column in predicted))
    s1 = geometry.direction(detector, thinned.panel, thinned.fast, thinned.slow)
    turn = rotation.from_vector(np.array([0.0, 0.0, angle_rad]))
    panel, fast, slow = geometry.intersect(detector, s1 @ turn.T)
    there = thinned._replace(panel=panel, fast=fast, slow=slow)
    return Predicted(*(column[panel >= 0] for column in there))


def strengths(reflections: Reflections) -> np.ndarray:
    """Return I/σ of the reflections that were integrated without failure or overlap, at most
    `LARGEST_Z` in size; NaN for the others: (reflection,).
    """
    spoilt = ReflectionFlag.FAILED | ReflectionFlag.OVERLAP
    is_sound = (np.asarray(reflections.flags) & spoilt) == 0
    z = np.clip(reflections.intensity / reflections.sigma, -LARGEST_Z, LARGEST_Z)
    return np.where(is_sound, z, np.nan)


def weigh(
    predicted: Predicted, z: np.ndarray, is_spot: np.ndarray, control: np.ndarray
) -> Evidence:
    """Return what speaks for a lattice.

    z: (n,) `strengths` of its predictions; is_spot: (n,) bool, those on which a spot was found;
    control: (m,) strengths of turned predictions.
    """
    is_sound = np.isfinite(z)
    own = z[is_sound]
    finest = np.percentile(predicted.d[is_spot], SPOTS_WITHIN) if is_spot.any() else np.inf
    is_well = is_sound & (predicted.partiality > WELL_RECORDED) & (predicted.d >= finest)
    control = control[np.isfinite(control)]
    share_by_chance = (control > SIGNAL_Z).mean() if len(control) else 0.0

    without_spot = z[is_sound & ~is_spot]
    variance = _variance_of_mean(without_spot) + _variance_of_mean(control)
    difference = _mean(without_spot) - _mean(control)
    evidence = Evidence(
        n_sound=len(own),
        n_signal=int((own > SIGNAL_Z).sum()),
        share_signal=float((z[is_well] > SIGNAL_Z).mean()) if is_well.any() else 0.0,
        n_by_chance=float(share_by_chance * len(own)),
        significance=float(difference / np.sqrt(variance)),
        d_min=_resolution_limit(predicted.d[is_sound], own),
    )
    if evidence.is_enough:
        return evidence
    # without signal, a limit would keep what fluctuated up
    return evidence._replace(d_min=float(predicted.d.min(initial=np.inf)))


def _mean(x: np.ndarray) -> float:
    """Return the mean of x (n,), 0 of none."""
    return float(x.mean()) if len(x) else 0.0


def _variance_of_mean(x: np.ndarray) -> float:
    """Return the variance of the mean of x (n,): at least that of noise, infinite of none."""
    return float(max(x.var(), 1.0) / len(x)) if len(x) else np.inf


def _resolution_limit(d: np.ndarray, z: np.ndarray) -> float:
    """Return the resolution, Å, to which the reflections' I/σ above `LEAST_MEAN_Z` have the largest
    sum: beyond it their mean is below that. Returns the coarsest where no sum is positive.

    d: (n,) Å; z: (n,) I/σ.
    """
    if not len(d):
        return 0.0
    order = np.argsort(-d, kind="stable")
    sums = np.cumsum(z[order] - LEAST_MEAN_Z)
    return float(d[order][np.argmax(sums)])
