"""The lattices from which curves are refined, in groups, and sums over them.

Sums over lattices are formed in fixed groups and added in the order of groups, so that they do not
depend on the number of ranks that hold the groups. The function that adds comes from the caller;
`add_here` serves where one process holds all.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.curves import expand, joint
from spreadflow.analysis.curves.controls import Change
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.expand import Evaluate, LatticeTerms, Normal, RefinedCurves
from spreadflow.errors import ConfigError
from spreadflow.physics import symmetry

MAX_GROUPS = 64
"""Most groups of blocks in which sums over lattices are formed, whatever the number of ranks."""

Groups = Mapping[int, list[tuple[int, LatticeTerms]]]
"""Group → number of each of its lattices among those that are used, and its terms."""

Add = Callable[[Mapping[int, np.ndarray], int], np.ndarray]
"""(partial sum of each group held here, number of groups) → the sum over all groups."""

Gather = Callable[[np.ndarray], list[np.ndarray]]
"""Array of this rank → those of all ranks."""


def add_here(partials: Mapping[int, np.ndarray], n_groups: int) -> np.ndarray:
    """Return the sum over groups that are all held here, in their order."""
    total = np.zeros(())
    for group in sorted(partials):
        total = total + partials[group]
    return total


class Ranks(NamedTuple):
    """The ranks that hold the groups: all of them here, unless the caller says otherwise."""

    add: Add = add_here
    gather: Gather = lambda array: [array]
    rank: int = 0
    size: int = 1


class LatticeSums:
    """The lattices that are used, and sums over them. Each rank holds some groups of them."""

    def __init__(
        self,
        groups: Groups,
        n_groups: int,
        n_lattices: int,
        photons: np.ndarray,
        energies_ev: np.ndarray,
        ranks: Ranks | None = None,
    ):
        """Hold lattices.

        n_lattices: number of lattices that are used, on all ranks; photons: (lattice, channel) of
        their pulses.
        """
        self.groups = groups
        self.n_groups = n_groups
        self.n = n_lattices
        self.photons = photons
        self.energies_ev = energies_ev
        self.ranks = ranks or Ranks()
        self.n_reflections = 0
        """unique reflections whose |F| is refined with the curves; 0 where it is not"""
        self._f0_sigma = 0.0
        self.reflections: dict[int, np.ndarray] = {}
        """number of a lattice → (column of its Gram,) number of the unique reflection"""

    def refine_amplitudes(self, space_group: str, f0_sigma: float) -> None:
        """Refine |F| of every unique reflection, Friedel mates as one, together with the curves.
        Collective.

        f0_sigma: relative standard deviation of |F|. Raises ConfigError where there are too many
        reflections.
        """
        unique = {
            number: symmetry.to_asu(terms.gram.hkl, space_group)[0]
            for members in self.groups.values()
            for number, terms in members
        }
        none = np.empty((0, 3), dtype=int)
        here = np.unique(np.concatenate([none, *unique.values()]), axis=0)
        hkl = np.unique(np.concatenate(self.ranks.gather(here)), axis=0)
        if len(hkl) > joint.MAX_REFLECTIONS:
            expected = (
                f"at most {joint.MAX_REFLECTIONS} unique reflections where spread.refine_f0 is on"
            )
            todo = "Narrow the range, or turn it off."
            raise ConfigError("spread.d_max", expected, len(hkl), todo)
        number_of = {tuple(index): number for number, index in enumerate(hkl.tolist())}
        self.reflections = {
            lattice: np.array([number_of[tuple(index)] for index in indices.tolist()])
            for lattice, indices in unique.items()
        }
        self._f0_sigma = f0_sigma
        self.n_reflections = len(hkl)

    def evaluator(
        self,
        p: Parametrisation,
        change: Change | None = None,
        is_chosen: Callable[[int], bool] | None = None,
    ) -> Evaluate:
        """Return the function θ → normal equations. Collective.

        They are those of all lattices or of chosen ones, as they are or each after `change`.
        """
        groups = {
            group: [
                (number, terms if change is None else change(number, terms))
                for number, terms in members
                if is_chosen is None or is_chosen(number)
            ]
            for group, members in self.groups.items()
        }
        chosen = [number for number in range(self.n) if is_chosen is None or is_chosen(number)]
        if not self.n_reflections:
            return lambda theta: self._curves(groups, p, theta, chosen)
        return joint.evaluator(
            lambda theta, u: self._curves_and_amplitudes(groups, p, theta, u, chosen),
            self.n_reflections,
            self._f0_sigma,
        )

    def _curves(
        self, groups: Groups, p: Parametrisation, theta: np.ndarray, chosen: list[int]
    ) -> Normal:
        """Return the normal equations of the curves."""
        losses = np.zeros(self.n)
        scores = np.zeros((self.n, len(theta)))
        hessians = {}
        for group, members in groups.items():
            normal = expand.normal([terms for _, terms in members], p, theta)
            numbers = [number for number, _ in members]
            losses[numbers] = normal.losses
            scores[numbers] = normal.scores
            hessians[group] = normal.hessian
        of_lattices = self.ranks.add({0: np.column_stack([losses, scores])}, 1)[chosen]
        hessian = self.ranks.add(hessians, self.n_groups)
        return Normal(of_lattices[:, 0], of_lattices[:, 1:], hessian)

    def _curves_and_amplitudes(
        self,
        groups: Groups,
        p: Parametrisation,
        theta: np.ndarray,
        u: np.ndarray,
        chosen: list[int],
    ) -> joint.Coupled:
        """Return the normal equations of curves and reflections. The large matrices are added group
        by group, so that each rank holds one at a time.
        """
        n_theta = len(theta)
        add = self.ranks.add
        of_lattices = np.zeros((self.n, 1 + n_theta + len(u)))
        large = np.zeros((len(u), n_theta + len(u)))
        hessians = {}
        for first in range(0, self.n_groups, self.ranks.size):
            own = first + self.ranks.rank
            held: dict[int, np.ndarray] = {}
            if members := groups.get(own):
                pairs = ((terms, self.reflections[number]) for number, terms in members)
                coupled = joint.coupled(pairs, p, theta, u)
                curves = coupled.curves
                numbers = [number for number, _ in members]
                of_lattices[numbers] = np.column_stack(
                    [curves.losses, curves.scores, coupled.slopes]
                )
                hessians[own] = curves.hessian
                held[own] = np.column_stack([coupled.across, coupled.hessian])
            for group in range(first, min(first + self.ranks.size, self.n_groups)):
                large += add({0: held[group]} if group in held else {}, 1)
        columns = add({0: of_lattices}, 1)[chosen]
        losses, scores, slopes = np.split(columns, [1, 1 + n_theta], axis=1)
        return joint.Coupled(
            Normal(losses[:, 0], scores, add(hessians, self.n_groups)),
            slopes,
            large[:, :n_theta],
            large[:, n_theta:],
        )

    def unbiased_scores(self, p: Parametrisation, refined: RefinedCurves) -> np.ndarray:
        """Return the scores (lattice, theta) of refined curves, of all lattices, each corrected for
        the lattice's own share in them (`expand.unbiased`). Collective.
        """
        theta = refined.theta
        information = self._information(p, theta)
        fisher = refined.fisher
        scores = np.zeros((self.n, len(theta)))
        for members in self.groups.values():
            for number, terms in members:
                of_lattice = information(number, terms)
                scores[number] = expand.unbiased(refined.scores[number], of_lattice, fisher)
        return self.ranks.add({0: scores}, 1)

    def _information(
        self, p: Parametrisation, theta: np.ndarray
    ) -> Callable[[int, LatticeTerms], np.ndarray]:
        """Return the function (number of a lattice, lattice) → what it says about θ (theta,
        theta). Collective.
        """
        if not self.n_reflections:
            return lambda number, terms: expand.normal([terms], p, theta).hessian
        everyone = list(range(self.n))
        reflections = joint.likeliest(
            lambda theta, u: self._curves_and_amplitudes(self.groups, p, theta, u, everyone),
            theta,
            np.zeros(self.n_reflections),
            self._f0_sigma,
        )
        return lambda number, terms: joint.information(
            terms, self.reflections[number], reflections, p, theta
        )

    def residuals(self, curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (data − model)/model of the Bragg photons with curves, and its σ: (channel,) each.
        Collective.
        """
        partials = {
            group: expand.residuals([terms for _, terms in members], curves)
            for group, members in self.groups.items()
        }
        slope, information = self.ranks.add(partials, self.n_groups)
        safe = np.where(information > 0, information, np.nan)
        return slope / safe, 1.0 / np.sqrt(safe)


def sums_here(
    lattices: Sequence[LatticeTerms], photons: np.ndarray, energies_ev: np.ndarray
) -> LatticeSums:
    """Return the sums over lattices that are all held here, as one group.

    photons: (lattice, channel) of their pulses; energies_ev: (channel,).
    """
    return LatticeSums({0: list(enumerate(lattices))}, 1, len(lattices), photons, energies_ev)
