"""The lattices from which curves are refined, and X with them where it is unknown.

Each rank holds some of the lattices. Sums over lattices are plain sums over the ranks, and depend
on their number by rounding alone.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.curves import columns as of_grams
from spreadflow.analysis.curves import expand, loops, objective, refinement
from spreadflow.analysis.curves import rest as rests
from spreadflow.analysis.curves.columns import NO_SITE_UNKNOWNS, Columns, SiteUnknowns
from spreadflow.analysis.curves.controls import Trial
from spreadflow.analysis.curves.curvature import curvature
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.expand import FittedRest, Normal, RefinedCurves
from spreadflow.analysis.curves.gram import Gram
from spreadflow.analysis.curves.objective import Problem
from spreadflow.analysis.curves.refinement import How, Priors, Start
from spreadflow.analysis.curves.rest import Rest
from spreadflow.analysis.curves.scatter import FIRST, scattered
from spreadflow.physics import miller, symmetry
from spreadflow.physics.structure_factors import StructureFactors

SCALE = "scale"
"""Name of the lattices' unknown ln scale."""

X_FIRST = 2
"""Steps in which X moves alone, where it starts from the model's."""


class Ranks(NamedTuple):
    """The ranks that hold the lattices: all of them here, unless the caller says otherwise."""

    total: Callable[[np.ndarray], np.ndarray] = lambda array: array
    """array of this rank → the sum over all ranks"""
    gather: Callable[[np.ndarray], list[np.ndarray]] = lambda array: [array]
    """array of this rank → those of all ranks"""


class Unknown(NamedTuple):
    """What of F is unknown beside the curves."""

    kind: str = "none"
    """complex: X of each reflection, integrated out; real: |X|, with the model's phases; none"""
    cell: np.ndarray | None = None
    """(6,) Å, rad"""
    space_group: str = "P 1"
    sigma: float = 0.0
    """of |X|, relative, where it is real; S of complex X is found from the data"""
    sites: SiteUnknowns = NO_SITE_UNKNOWNS
    """what is unknown of sites beside their curves"""
    is_held: bool = True
    """Σ|F|² is held at the model's, where X is complex: lattices say too little of the common
    scale, which would go up and down from cycle to cycle, or run away
    """


class LatticeSums:
    """The lattices that are used, and what refines curves from them."""

    def __init__(
        self,
        grams: Sequence[Gram],
        factors: StructureFactors,
        photons: np.ndarray,
        energies_ev: np.ndarray,
        *,
        numbers: np.ndarray | None = None,
        unknowns: Sequence[str] = (),
        unknown: Unknown = Unknown(),  # noqa: B008  (a tuple)
        ranks: Ranks = Ranks(),  # noqa: B008
    ):
        """Hold lattices. Collective.

        grams: of the lattices that this rank holds; factors: F of the model, whose curves are those
        of the start; photons: (lattice, channel) of the pulses of all lattices; numbers: (held
        lattice,) of those of this rank among all, None where they are all; unknowns: names of what
        stage 1 refines. Raises ValueError where the model lacks a node.
        """
        self.factors = factors
        self.photons = photons
        self.energies_ev = energies_ev
        self.n = len(photons)
        self.numbers = np.arange(len(grams)) if numbers is None else np.asarray(numbers, dtype=int)
        self.unknown = unknown
        self.ranks = ranks
        self._scale = list(unknowns).index(SCALE) if SCALE in unknowns else -1
        self.columns = of_grams.of_lattices(grams, factors)
        self.rest: Rest | None = None
        """the unique reflections, where X is unknown"""
        if unknown.kind != "none":
            is_there = np.ones(len(self.columns.hkl), dtype=bool)
            node = factors.rows(self.columns.hkl)
            e = of_grams.directions(factors, node)
            columns = self.columns.with_sites(unknown.sites, node)
            self.columns, self.rest = self._with_rest(columns, columns.hkl, e, is_there)

    def _with_rest(
        self, columns: Columns, hkl: np.ndarray, e: np.ndarray, is_there: np.ndarray
    ) -> tuple[Columns, Rest]:
        """Return columns in which X is unknown, and the unique reflections. Collective.

        hkl: (column, 3) whose F they have; e: (column,) direction of X; is_there: (column,) bool,
        where there is such a reflection.
        """
        asu, friedel = symmetry.to_asu(hkl[is_there], self.unknown.space_group)
        here = np.unique(asu, axis=0)
        unique, back = np.unique(
            np.concatenate([here, *self.ranks.gather(here)]), axis=0, return_inverse=True
        )
        number_here = back.ravel()[: len(here)]
        _, row = np.unique(asu, axis=0, return_inverse=True)
        reflection = np.zeros(len(hkl), dtype=np.int64)
        reflection[is_there] = number_here[row.ravel()]
        is_mate = np.zeros(len(hkl), dtype=bool)
        is_mate[is_there] = friedel < 0
        assert self.unknown.cell is not None, "given where X is unknown"
        rest = rests.rest(
            self.factors,
            unique,
            self.unknown.cell,
            self.unknown.space_group,
            self.photons.mean(axis=0),
            self.unknown.kind,
            self.unknown.sites,
        )
        return columns.with_rest(e, reflection, is_mate, rest.freedom), rest

    def _changed(self, trial: Trial) -> tuple[Columns, Rest | None]:
        """Return the columns that a trial refines, and their unique reflections. Collective."""
        columns = self.columns
        rest = self.rest
        if trial.change is not None:
            tampered = trial.change(columns, self.numbers)
            node = self.factors.rows(tampered.hkl)
            is_there = node >= 0
            own = of_grams.scattering(self.factors, np.maximum(node, 0), columns.channel)
            own = own.times(np.where(is_there, tampered.factor, 0.0))
            columns = columns.of_model()._replace(fixed=own.fixed, groups=own.groups)
            if rest is not None:
                columns = columns.with_sites(self.unknown.sites, np.maximum(node, 0))
                columns, rest = self._with_rest(columns, tampered.hkl, own.direction, is_there)
        if trial.is_chosen is not None:
            columns = columns._replace(is_used=trial.is_chosen(self.numbers))
        return columns, rest

    def refine(
        self,
        p: Parametrisation,
        trial: Trial,
        before: FittedRest | None = None,
        *,
        learns_priors: bool = True,
        from_model: bool = False,
    ) -> RefinedCurves:
        """Return the curves that a trial asks for. Collective.

        before: X and priors of the start, where X is unknown; None = X of the model, with priors
        to begin with; from_model: X begins with the model's all the same.
        """
        columns, rest = self._changed(trial)
        if rest is None:
            return self._without_rest(columns, p, trial)
        is_complex = self.unknown.kind == "complex"
        x = np.zeros((rest.n, 2))
        learns = is_complex and learns_priors
        priors = Priors(self.first_variance(rest), FIRST if learns else 0.0)
        is_from_model = from_model or before is None
        if before is not None:
            priors = Priors(_in_shells(before.variance, rest.n_shells), before.scatter)
            if not from_model:
                row = miller.rows(before.hkl, rest.hkl)
                x = np.where(row[:, None] < 0, 0.0, before.x[row])
        how = How(
            learns_priors=learns,
            n_alone=X_FIRST if is_from_model else 0,
            moves_curves=trial.moves_curves,
            max_steps=trial.max_steps or refinement.MAX_STEPS,
            right_value=trial.right_value,
        )
        start = Start(trial.theta, x, priors)
        return self._at_rest(self._problem(columns, rest, p), start, how, trial.needs_sigma)

    def again(self, p: Parametrisation, trial: Trial, best: RefinedCurves) -> RefinedCurves:
        """Return what a control asks for: curves refined from elsewhere, with X as free as `best`
        has left it, from the model's X on unless the curves are held. Collective.
        """
        return self.refine(p, trial, best.rest, learns_priors=False, from_model=trial.moves_curves)

    # ------------------------------------------------------------ X of the model

    def _without_rest(self, columns: Columns, p: Parametrisation, trial: Trial) -> RefinedCurves:
        """Return the curves with X of the model."""

        def evaluate(theta: np.ndarray) -> Normal:
            return self._normal(columns, p, theta)

        if trial.moves_curves:
            max_steps = trial.max_steps or expand.MAX_STEPS
            return expand.refine(evaluate, p, trial.theta, max_steps)
        return expand.refine(evaluate, p, trial.theta, 0)

    def losses_at(self, p: Parametrisation, theta: np.ndarray) -> np.ndarray:
        """Return −ln L (lattice,) at θ, with X of the model. Collective."""
        return self._normal(self.columns, p, theta).losses

    def _normal(self, columns: Columns, p: Parametrisation, theta: np.ndarray) -> Normal:
        """Return the normal equations of the lattices that take part, with X of the model."""
        own = expand.normal(columns, p, theta)
        of_lattices = np.zeros((self.n, 2 + len(theta)))
        of_lattices[self.numbers] = np.column_stack([columns.is_used, own.losses, own.scores])
        of_lattices = self.ranks.total(of_lattices)
        used = of_lattices[of_lattices[:, 0] > 0.0]
        return Normal(used[:, 1], used[:, 2:], self.ranks.total(own.hessian))

    def unbiased_scores(self, p: Parametrisation, refined: RefinedCurves) -> np.ndarray:
        """Return the scores of refined curves; those of lattices (lattice, theta) are each
        corrected for the lattice's own share in them (`expand.unbiased`). Collective.
        """
        if refined.rest is not None:
            return refined.scores
        fisher = refined.fisher
        scores = np.zeros((self.n, len(refined.theta)))
        for row, number in enumerate(self.numbers):
            information = expand.normal(self.columns.only(row), p, refined.theta).hessian
            scores[number] = expand.unbiased(refined.scores[number], information, fisher)
        return self.ranks.total(scores)

    # ------------------------------------------------------------ X unknown

    def first_variance(self, rest: Rest) -> np.ndarray:
        """Return S (shell,) to begin with; real X has that which is configured."""
        if self.unknown.kind == "complex":
            return rests.first_variance(rest)
        return np.full(rest.n_shells, self.unknown.sigma**2)

    def n_shoeboxes(self) -> np.ndarray:
        """Return how many shoeboxes recorded each unique reflection, (reflection,). Collective."""
        assert self.rest is not None, "asked where X is unknown"
        columns = self.columns
        box = np.repeat(np.arange(len(columns.first_column) - 1), np.diff(columns.first_column))
        recorded = np.unique(np.stack([box, columns.reflection], axis=1), axis=0)
        here = np.bincount(recorded[:, 1], minlength=self.rest.n).astype(np.float64)
        return self.ranks.total(here).astype(np.int64)

    def mean_factors(self, p: Parametrisation, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return F (reflection,), complex, of the unique reflections in the mean light, with curves
        and sites of θ and a, b of x (reflection, 2). Collective.
        """
        assert self.rest is not None, "asked where X is unknown"
        return objective.mean_factors(self._problem(self.columns, self.rest, p), theta, x)

    def _problem(self, columns: Columns, rest: Rest, p: Parametrisation) -> Problem:
        """Return the problem of curves and X. Collective."""
        is_complex = self.unknown.kind == "complex"
        is_held = is_complex and self.unknown.is_held
        problem = Problem(
            columns=columns,
            rest=rest,
            p=p,
            scale=self._scale,
            is_integrated=is_complex,
            start_square=0.0,
            site_origin=self.unknown.sites.origin,
            scale_sigma=objective.SCALE_HOLD if is_held else np.inf,
            add=self.ranks.total,
        )
        recorded = np.bincount(columns.reflection, columns.is_used[columns.lattice], rest.n)
        is_recorded = self.ranks.total(recorded) > 0.0
        no_change = np.zeros(len(p.names))
        M = objective.mean_factors(problem, no_change, np.zeros((rest.n, 2)))
        return problem._replace(start_square=float(np.sum(np.abs(M[is_recorded]) ** 2)))

    def _at_rest(
        self, problem: Problem, start: Start, how: How, needs_sigma: bool
    ) -> RefinedCurves:
        """Return where curves and X rest, and what is then known of the curves. Collective."""
        p = problem.p
        rest = problem.rest
        at_rest = refinement.refine(problem, start, how)
        problem = at_rest.problem
        point = at_rest.point
        matrix = curvature(problem, point, at_rest.prior)
        information = matrix.curves
        scores = np.empty((0, len(point.theta)))
        if needs_sigma:
            information, follow = refinement.without_x(matrix)
            scores = objective.scores(problem, point, follow)
        of_lattices = np.zeros((self.n, 2))
        columns = problem.columns
        of_lattices[self.numbers] = np.column_stack([columns.is_used, point.losses])
        of_lattices = self.ranks.total(of_lattices)
        sigma = np.sqrt(point.covariance[:, [0, 2]])
        every = np.ones(rest.n, dtype=bool)
        mean_square = rest.by_shell(np.abs(rest.model) ** 2, every)
        mean_variance = rest.by_shell(at_rest.prior.variance, every)
        share = np.sqrt(mean_variance / np.maximum(mean_square, of_grams.SMALLEST_F))
        return RefinedCurves(
            theta=point.theta,
            losses=of_lattices[of_lattices[:, 0] > 0.0, 1],
            hessian=information + p.restraints,
            of_pixels=information,
            scores=scores,
            steps=at_rest.steps,
            value=point.value,
            rest=FittedRest(
                hkl=rest.hkl,
                x=point.x,
                sigma=np.where(rest.is_unknown, sigma, np.nan),
                variance=at_rest.priors.variance,
                scatter=at_rest.priors.scatter,
                log_scale=point.log_scale,
                largest_share=float(share.max(initial=0.0)),
                has_converged=at_rest.has_converged,
                with_x_held=matrix.curves,
            ),
        )

    def residuals(
        self, p: Parametrisation, refined: RefinedCurves
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (data − model)/model of the Bragg photons as refined, and its σ: (channel,) each.
        Collective.
        """
        f = expand.complex_curves(p.curves(refined.theta))
        if refined.rest is None:
            columns = self.columns.of_model()
            x = expand.NO_REST
        else:
            columns = scattered(self.columns, refined.rest.scatter)
            x = refined.rest.x
        n_sites = len(columns.site_of)
        sites = refined.theta[len(refined.theta) - n_sites :]
        if n_sites:
            sites = sites - self.unknown.sites.origin
        covariance = np.zeros((len(x), 3))
        no_pull = np.empty(0)
        _, _, _, slopes = loops.forces(columns, f, x, sites, covariance, -1, no_pull)
        sums = loops.residuals(columns, f, x, sites, slopes)
        slope, information = self.ranks.total(sums)
        safe = np.where(information > 0, information, np.nan)
        return slope / safe, 1.0 / np.sqrt(safe)


def _in_shells(variance: np.ndarray, n_shells: int) -> np.ndarray:
    """Return S (shell,) in another number of shells."""
    if len(variance) == n_shells:
        return variance
    places = np.linspace(0.0, 1.0, n_shells)
    return np.interp(places, np.linspace(0.0, 1.0, len(variance)), variance)
