"""The lattices of a finished cycle of `spread`, shared among the ranks, and sums over them."""

from collections.abc import Callable

import numpy as np

from spreadflow.analysis.curves import expand, joint
from spreadflow.analysis.curves.controls import Change
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.expand import Evaluate, LatticeTerms, Normal
from spreadflow.config import SpreadConfig
from spreadflow.errors import ConfigError, SpreadOutcome
from spreadflow.io import schema, store
from spreadflow.parallel import World
from spreadflow.physics import symmetry
from spreadflow.recipes import gram as curvefit
from spreadflow.recipes import lattice as pixelfit

GROUPS = 64
"""sums over lattices are formed in so many groups of blocks at most, whatever the number of ranks"""


class Lattices:
    """The lattices of a finished cycle that are used. Each rank holds those of its groups of blocks."""

    def __init__(
        self,
        config: SpreadConfig,
        given: pixelfit.RunModel,
        parts: store.Parts,
        sizes: list[int],
        world: World,
    ):
        n_blocks, self.energies_ev = len(sizes), given.energies_ev
        self.world, self.n_groups, self.mine = (
            world,
            min(n_blocks, GROUPS),
            dict[int, list[tuple[int, LatticeTerms]]](),
        )
        names = [name for name in schema.FILES["gram"] if name.startswith("lattices/")]
        told = store.joined("gram", names, [parts.read(n, names) for n in range(n_blocks)])
        self.rows = {name.split("/")[1]: column for name, column in told.items()}
        self.used = np.flatnonzero(self.rows["outcome"] == SpreadOutcome.USED)
        self.n, first = len(self.used), 0
        for n, size in enumerate(sizes):
            group = n * self.n_groups // n_blocks
            if group % world.size == world.rank:
                grams = curvefit.grams(parts.read(n))
                ready = [(i, curvefit.lattice(g, given.factors)) for i, g in grams]
                at = np.searchsorted(self.used, [first + i for i, _ in ready])
                self.mine.setdefault(group, []).extend(
                    (int(a), of) for a, (_, of) in zip(at, ready, strict=True)
                )
            first += size
        self.f0_sigma, self.n_reflections, self.reflection = (
            config.spread.f0_sigma,
            0,
            dict[int, np.ndarray](),
        )
        if config.spread.refine_f0:
            self._name_reflections(given.space_group)

    def _name_reflections(self, space_group: str) -> None:
        """Number the unique reflections, Friedel mates as one, of all lattices. Raises ConfigError: too many."""
        unique = {}
        for members in self.mine.values():
            for i, of in members:
                unique[i] = symmetry.to_asu(of.gram.hkl, space_group)[0]
        mine = np.unique(np.concatenate([np.empty((0, 3), dtype=int), *unique.values()]), axis=0)
        every = np.unique(np.concatenate(self.world.gather(mine)), axis=0)
        self.n_reflections = len(every)
        if self.n_reflections > joint.MOST:
            expected = f"at most {joint.MOST} unique reflections where spread.refine_f0 is on"
            raise ConfigError(
                "spread.d_max", expected, self.n_reflections, "Narrow the range, or turn it off."
            )
        known = {tuple(hkl): n for n, hkl in enumerate(every.tolist())}
        self.reflection = {
            i: np.array([known[tuple(h)] for h in hkl.tolist()]) for i, hkl in unique.items()
        }

    def evaluator(
        self,
        p: Parametrisation,
        change: Change | None = None,
        some: Callable[[int], bool] | None = None,
    ) -> Evaluate:
        """θ → normal equations of all lattices, or of some, changed or not. Collective."""
        made = {
            group: [
                (i, of if change is None else change(i, of))
                for i, of in members
                if some is None or some(i)
            ]
            for group, members in self.mine.items()
        }
        numbers = [i for i in range(self.n) if some is None or some(i)]
        if not self.n_reflections:
            return lambda theta: self._summed(made, p, theta, numbers)
        return joint.evaluator(
            lambda theta, u: self._coupled(made, p, theta, u, numbers),
            self.n_reflections,
            self.f0_sigma,
        )

    def _summed(
        self, made: dict, p: Parametrisation, theta: np.ndarray, numbers: list[int]
    ) -> Normal:
        """Normal equations of the curves."""
        losses = np.zeros(self.n)
        scores = np.zeros((self.n, len(theta)))
        hessians = {}
        for group, members in made.items():
            mine = expand.normal([of for _, of in members], p, theta)
            of = [i for i, _ in members]
            losses[of], scores[of], hessians[group] = mine.losses, mine.scores, mine.hessian
        every = self.world.sum({0: np.column_stack([losses, scores])}, 1)[numbers]
        return Normal(every[:, 0], every[:, 1:], self.world.sum(hessians, self.n_groups))

    def _coupled(
        self, made: dict, p: Parametrisation, theta: np.ndarray, u: np.ndarray, numbers: list[int]
    ) -> joint.Coupled:
        """Normal equations of curves and reflections. The large ones are added group by group, each held but once."""
        each = np.zeros((self.n, 1 + len(theta) + len(u)))
        large = np.zeros((len(u), len(theta) + len(u)))
        hessians = {}
        for first in range(0, self.n_groups, self.world.size):
            mine = first + self.world.rank
            of_mine = dict[int, np.ndarray]()
            if members := made.get(mine):
                found = joint.coupled(((of, self.reflection[i]) for i, of in members), p, theta, u)
                told = np.column_stack([found.curves.losses, found.curves.scores, found.slopes])
                each[[i for i, _ in members]] = told
                hessians[mine] = found.curves.hessian
                of_mine[mine] = np.column_stack([found.across, found.hessian])
            for group in range(first, min(first + self.world.size, self.n_groups)):
                large += self.world.sum({0: of_mine[group]} if group in of_mine else {}, 1)
        losses, scores, slopes = np.split(
            self.world.sum({0: each}, 1)[numbers], [1, 1 + len(theta)], axis=1
        )
        of_curves = Normal(losses[:, 0], scores, self.world.sum(hessians, self.n_groups))
        return joint.Coupled(of_curves, slopes, large[:, : len(theta)], large[:, len(theta) :])

    def residuals(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(channel,) (data − model)/model of the Bragg photons with curves `at`, and its σ. Collective."""
        parts = {
            group: expand.residuals([of for _, of in members], at)
            for group, members in self.mine.items()
        }
        slope, information = self.world.sum(parts, self.n_groups)
        safe = np.where(information > 0, information, np.nan)
        return slope / safe, 1.0 / np.sqrt(safe)
