"""The rest: what scatters beside the sites' f′ and f″, X of every unique reflection, unknown.

No model has |F| and phases to the percent that curves need. X = X_model + e·(a + ib), e being the
direction of X_model; a and b are normal with variance S/2 each (X of centric reflections is real
but for a phase: a alone, variance S), and are integrated out (Laplace): the objective is −ln L +
½ Σ x²P + ½ Σ ln det(B + P), B what the pixels say about a and b of a reflection. S, of a shell of
resolution, is what the data make it (expectation maximisation). That is phasing by multiple
wavelengths inside every pulse.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.curves.columns import (
    NO_SITE_UNKNOWNS,
    SMALLEST_F,
    SiteUnknowns,
    directions,
)
from spreadflow.physics import symmetry, unit_cell
from spreadflow.physics.structure_factors import StructureFactors

PER_SHELL = 200
"""Reflections in a shell of resolution, at least."""

MAX_SHELLS = 10
"""Shells of resolution, at most."""

FIRST_SHARE = 0.15
"""Standard deviation of X about the model's, relative to the r.m.s. |X| of its shell, with which
the search for it begins.
"""

SMALLEST_SHARE = 1e-2
"""Least standard deviation of X that is believed, relative to the r.m.s. |X| of its shell."""

LARGEST_SHARE = 0.5
"""Standard deviation of X about the model's, relative to the r.m.s. |X| of its shell, beyond which
this is no model of the crystal: S grows no further.
"""

MAX_FACTOR = 2.0
"""Factor by which S changes at a time, at most."""

MOST_OF_CHANGE = 0.8
"""Share of a change of ln S, at most, that the next change is expected to repeat."""

FREEDOM = {"complex": 2, "real": 1, "none": 0}
"""What of X is unknown → number of unknowns of an acentric reflection."""


class Rest(NamedTuple):
    """The unique reflections, Friedel mates as one, and their X as the model has it."""

    hkl: np.ndarray
    """(reflection, 3) in the asymmetric unit"""
    d: np.ndarray
    """(reflection,) Å"""
    model: np.ndarray
    """(reflection,) complex128: F without the sites' f′ and f″, in the mean light"""
    along: np.ndarray
    """(reflection,) complex128: its direction e"""
    groups: np.ndarray
    """(reflection, site) complex128: g of each site"""
    site_slopes: np.ndarray
    """(reflection, site unknown) complex128: derivatives of g of its site by each of these"""
    freedom: np.ndarray
    """(reflection,) 2 where X is complex, 1 where it is real, 0 where it is the model's"""
    weight: np.ndarray
    """(reflection,) S of a reflection over that of its shell: the factor ε of symmetry on the mean
    |F|², or |X|² where X is real
    """
    shell: np.ndarray
    """(reflection,) number of its shell of resolution, from low to high"""
    light: np.ndarray
    """(channel,) share of the mean pulse's photons"""

    @property
    def is_unknown(self) -> np.ndarray:
        """(reflection, 2) whether a and b are unknown"""
        return self.freedom[:, None] > np.arange(2)

    @property
    def n(self) -> int:
        """Number of reflections."""
        return len(self.hkl)

    @property
    def n_shells(self) -> int:
        """Number of shells."""
        return int(self.shell.max(initial=-1)) + 1

    def in_mean_light(self, f: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return F (reflection,), complex, in the mean light.

        f: (site, channel) f′ + i f″; x: (reflection, 2) a and b.
        """
        return self.model + self.along * (x[:, 0] + 1j * x[:, 1]) + self.groups @ (f @ self.light)

    def by_shell(self, values: np.ndarray, is_counted: np.ndarray) -> np.ndarray:
        """Return the mean (shell,) of values (reflection,) over the reflections that count."""
        chosen = self.shell[is_counted]
        n = np.bincount(chosen, minlength=self.n_shells)
        return np.bincount(chosen, values[is_counted], self.n_shells) / np.maximum(n, 1)


def rest(
    factors: StructureFactors,
    hkl: np.ndarray,
    cell: np.ndarray,
    space_group: str,
    light: np.ndarray,
    unknown: str,
    sites: SiteUnknowns = NO_SITE_UNKNOWNS,
) -> Rest:
    """Return the X of unique reflections hkl (reflection, 3).

    cell: (6,) Å, rad; light: (channel,) photons of the mean pulse; unknown: of `FREEDOM`; sites:
    what is unknown of sites beside their curves.
    """
    row = factors.rows(hkl)
    light = light / light.sum()
    others = np.asarray(factors.anomalous[factors.n_sites :])
    mean_others = np.broadcast_to(others, (len(others), len(light))) @ light
    base = np.asarray(factors.rest)[row]
    d = unit_cell.spacing(unit_cell.reciprocal(cell), hkl)
    operations = symmetry.group(space_group).operations()
    indices = np.asarray(hkl, dtype=np.int32)
    is_centric = np.asarray(operations.centric_flag_array(indices), dtype=bool)
    most = FREEDOM[unknown]
    weight = np.asarray(
        operations.epsilon_factor_without_centering_array(indices), dtype=np.float64
    )
    if unknown == "real":
        weight = np.maximum(np.abs(base) ** 2, SMALLEST_F)
    n_shells = int(np.clip(len(hkl) // PER_SHELL, 1, MAX_SHELLS))
    order = np.argsort(np.argsort(-d, kind="stable"), kind="stable")
    return Rest(
        hkl=hkl,
        d=d,
        model=base + np.asarray(factors.groups)[factors.n_sites :, row].T @ mean_others,
        along=directions(factors, row),
        groups=np.ascontiguousarray(np.asarray(factors.groups)[: factors.n_sites, row].T),
        site_slopes=sites.of_nodes(row),
        freedom=np.where(is_centric, np.minimum(most, 1), most),
        weight=weight,
        shell=order * n_shells // max(len(hkl), 1),
        light=light,
    )


class Prior(NamedTuple):
    """What is known of X before the pixels are looked at."""

    variance: np.ndarray
    """(reflection,) S: mean |X − X_model|², electrons²"""
    precision: np.ndarray
    """(reflection, 2) 1/variance of a and b; 1 where they are not unknown"""


def prior(rest: Rest, variance: np.ndarray) -> Prior:
    """Return the prior of reflections. variance: (shell,) S over `Rest.weight`."""
    of_each = rest.weight * variance[rest.shell]
    n_unknown = rest.is_unknown.sum(axis=1)
    precision = (n_unknown / of_each)[:, None]
    return Prior(of_each, np.where(rest.is_unknown, precision, 1.0))


def first_variance(rest: Rest, share: float = FIRST_SHARE) -> np.ndarray:
    """Return S (shell,) from which the search begins, electrons².

    share: standard deviation of X about the model's, relative to the r.m.s. |X| of its shell.
    """
    every = np.ones(rest.n, dtype=bool)
    return share**2 * rest.by_shell(np.abs(rest.model) ** 2 / rest.weight, every)


def n_determined(
    rest: Rest, covariance: np.ndarray, prior: Prior, is_seen: np.ndarray
) -> np.ndarray:
    """Return how many unknowns of X the data determine, (shell,): each counts as 1 less the share
    of its prior variance that is left.

    covariance: (reflection, 3) C, elements aa, ab, bb; is_seen: (reflection,) bool.
    """
    is_unknown = rest.is_unknown & is_seen[:, None]
    determined = 1.0 - prior.precision * covariance[:, [0, 2]]
    of_each = np.where(is_unknown, determined, 0.0).sum(axis=1)
    return np.bincount(rest.shell, of_each, rest.n_shells)


def next_variance(
    rest: Rest, x: np.ndarray, covariance: np.ndarray, prior: Prior, is_seen: np.ndarray
) -> np.ndarray:
    """Return S (shell,) that the data make likelier: Σ x² over the number of unknowns that they
    determine (MacKay 1992, Neural Comput. 4, 415). It rests where expectation maximisation does,
    and gets there in fewer steps.

    x: (reflection, 2) a and b; covariance: (reflection, 3) their C, elements aa, ab, bb; is_seen:
    (reflection,) bool.
    """
    is_unknown = rest.is_unknown & is_seen[:, None]
    relative = prior.precision * prior.variance[:, None] / rest.weight[:, None]
    squares = np.where(is_unknown, x**2 * relative, 0.0).sum(axis=1)
    every = np.ones(rest.n, dtype=bool)
    before = rest.by_shell(prior.variance / rest.weight, every)
    total = np.bincount(rest.shell, squares, rest.n_shells)
    n = n_determined(rest, covariance, prior, is_seen)
    new = np.where(n > 0.0, total / np.maximum(n, 1e-9), before)
    return _limited(rest, before, new)


def _limited(rest: Rest, before: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return a new S (shell,) not too far from that before, nor beyond what is believed."""
    every = np.ones(rest.n, dtype=bool)
    mean_square = rest.by_shell(np.abs(rest.model) ** 2 / rest.weight, every)
    limited = np.clip(new, before / MAX_FACTOR, before * MAX_FACTOR)
    return np.clip(limited, SMALLEST_SHARE**2 * mean_square, LARGEST_SHARE**2 * mean_square)


class Asked(NamedTuple):
    """S of the shells, and that which the data then asked for; (shell,)."""

    variance: np.ndarray
    next_variance: np.ndarray


def anticipated(rest: Rest, now: Asked, before: Asked | None) -> np.ndarray:
    """Return S (shell,) where asking for it again and again would end, as far as two askings tell:
    by the secant, in ln S, of each shell. S of a model that is right falls for ever otherwise.
    """
    if before is None:
        return now.next_variance
    change = np.log(now.next_variance / now.variance)
    change_before = np.log(before.next_variance / before.variance)
    moved = np.log(now.variance / before.variance)
    slope = np.divide(
        change - change_before, moved, out=np.full_like(moved, -1.0), where=moved != 0
    )
    repeated = np.clip(1.0 + slope, 0.0, MOST_OF_CHANGE)
    new = now.variance * np.exp(change / (1.0 - repeated))
    return _limited(rest, now.variance, new)


Add = Callable[[np.ndarray], np.ndarray]
"""Array of this rank → the sum over all ranks."""
