"""One cycle of stage 2: from the Gram matrices of all lattices to intensities with σ.

Nothing here reads files or knows of ranks: batches of lattices come from a function that may read
them anew each time, and sums over ranks from another.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.factors import equations, scatter, shared, sigmas, solution
from spreadflow.analysis.factors.equations import Batch, Equations
from spreadflow.analysis.factors.solution import Add, Marginal, Restraint, Solution
from spreadflow.analysis.scoring import Evidence, better
from spreadflow.recipes.intensities import Reflections, modelled, scatter_of

FIRST_FRACTION = 0.02
"""Scatter of intensities among lattices, relative, that the search begins with."""

N_ROUNDS = 4
"""Rounds in which scatter and intensities are found in turns."""

N_ROUNDS_OF_SPREAD = 3
"""Rounds in which the spread of volumes is found, before the last."""

SHARED_PRECISION = 4.0
"""Precision of the weak restraint of a step of ln of a common factor: ± 0.5."""

LARGEST_SHARED_STEP = 0.1
"""Largest change of ln of a common factor in one round: intensities are not linear in it."""

LARGEST_SIGMA = 1.0
"""σ of an intensity, in units of the mean at its resolution, above which nothing is known of it: a
shoebox has but the tail of its spot.
"""

LEAST_COMMON = 0.2
"""Share of the reflections that half sets must have in common for lattices that were held out to
say anything.
"""

LEAST_STRENGTH = 5.0
"""I/σ in one half set from which an intensity is handed to the lattices of the other: a weak one
of a bright reflection would outweigh all others.
"""

WIDER = 2.0
"""Factor by which the spread of volumes is widened before it is looked for again."""


class OwnBatch(NamedTuple):
    """Some lattices of this rank."""

    number: int
    """of the batch among those of all ranks: random numbers are its own"""
    batch: Batch
    half: np.ndarray
    """(lattice,) half set, 0 or 1"""


Batches = Callable[[], Iterator[OwnBatch]]
"""Yields the batches of this rank, each time from the first one on."""


class Problem(NamedTuple):
    """What the cycles of stage 2 share."""

    reflections: Reflections
    is_shared: np.ndarray
    """(unknown,) bool: N and η, of which lattices have a common factor"""
    direction: np.ndarray
    """(own unknown,) change of ln volume of a lattice by the unknowns that are its own"""
    restraint: Restraint | None
    seed: int
    add: Add


class Intensities(NamedTuple):
    """What all lattices say about the reflections, in a cycle."""

    intensity: np.ndarray
    """(reflection,) as expanded where no lattice recorded it"""
    sigma: np.ndarray
    """(reflection,) NaN where none did, or where it would exceed the mean at that resolution"""
    half: np.ndarray
    """(reflection, 2) of the half sets; NaN as for σ"""
    n: np.ndarray
    """(reflection,) lattices that recorded it"""
    n_undetermined: int
    """reflections that a lattice recorded, but whose σ is larger than that"""
    spread: float
    """standard deviation of ln volume among lattices"""
    fraction: float
    """scatter of what lattices show of a reflection, relative"""
    shared: np.ndarray
    """(shared,) ln of the common factors of N and η, from where lattices were expanded"""
    n_iterations: int
    """of all solves for the intensities"""
    held_out: float
    """−ln L of each half's lattices with the intensities of the other half, a lattice; NaN where
    they have too few reflections in common
    """
    held_out_before: float
    """the same with those of the cycle before; NaN in the first"""


def refine(
    problem: Problem, batches: Batches, about: np.ndarray, before: Intensities | None
) -> Intensities:
    """Return the likeliest intensities, from lattices expanded about `about` (reflection,).
    Collective.

    before: those of the cycle before.
    """
    fraction = FIRST_FRACTION if before is None else before.fraction
    spread = solution.FIRST_SPREAD
    shared_value = np.zeros(int(problem.is_shared.sum()))
    n_iterations = 0
    point = about
    for number in range(N_ROUNDS):
        is_last = number == N_ROUNDS - 1
        own = _held(problem, batches, shared_value)
        whole = _equations(problem, own, point, fraction)
        solved = solution.solve(
            whole,
            problem.direction,
            problem.add,
            spread=spread,
            restraint=problem.restraint,
            n_rounds=solution.N_ROUNDS if is_last else N_ROUNDS_OF_SPREAD,
        )
        n_iterations += solved.n_iterations
        if not is_last:
            marginal = Marginal(whole, solved.prior, problem.add, problem.restraint)
            step = _shared_step(problem, batches, marginal, solved, fraction, shared_value)
            fraction = _better_fraction(problem, own, whole, solved, fraction)
            shared_value = shared_value + step
            spread = WIDER * solved.prior.spread
            point = modelled(problem.reflections, solved.intensity)

    marginal = Marginal(whole, solved.prior, problem.add, problem.restraint)
    sigma = _sigmas(problem, own, marginal, solved, fraction)
    is_known = sigma < LARGEST_SIGMA * problem.reflections.typical
    n_seen = problem.add(whole.n_seen.astype(np.float64)).astype(np.int64)
    half, held_out, held_out_before = _halves(problem, own, solved, point, fraction, before)
    return Intensities(
        intensity=solved.intensity,
        sigma=np.where(is_known, sigma, np.nan),
        half=half,
        n=n_seen,
        n_undetermined=int((np.isfinite(sigma) & ~is_known).sum()),
        spread=solved.prior.spread,
        fraction=fraction,
        shared=shared_value,
        n_iterations=n_iterations,
        held_out=held_out,
        held_out_before=held_out_before,
    )


def _held(problem: Problem, batches: Batches, shared_value: np.ndarray) -> Batches:
    """Return the batches with the shared unknowns held at their values (shared,)."""

    def own() -> Iterator[OwnBatch]:
        for one in batches():
            free = equations.without_shapes(one.batch, problem.is_shared)
            yield one._replace(batch=equations.held(free, problem.is_shared, shared_value))

    return own


def _shared_step(
    problem: Problem,
    batches: Batches,
    marginal: Marginal,
    solved: Solution,
    fraction: float,
    shared_value: np.ndarray,
) -> np.ndarray:
    """Return the step (shared,) of the shared unknowns from their values. Collective."""
    n_shared = len(shared_value)
    about = marginal.equations.intensity
    if n_shared == 0:
        return shared_value
    of_scatter = scatter_of(problem.reflections, about, fraction)
    total = shared.SharedSums(
        np.zeros((n_shared, len(about))), np.zeros((n_shared, n_shared)), np.zeros(n_shared)
    )
    first = 0
    for _, batch, _ in batches():
        last = first + len(batch.loss)
        free = equations.without_shapes(batch, problem.is_shared)
        of_batch = shared.shared_sums(
            free,
            equations.parabolas(free, about, of_scatter),
            problem.is_shared,
            shared_value,
            marginal.held[first:last],
            solved.unknowns[first:last],
            solved.intensity - about,
        )
        total = shared.SharedSums(*map(np.add, total, of_batch))
        first = last
    step = shared.shared_step(marginal, shared.added(total, problem.add), SHARED_PRECISION)
    return np.clip(step, -LARGEST_SHARED_STEP, LARGEST_SHARED_STEP)


def _equations(
    problem: Problem, batches: Batches, about: np.ndarray, fraction: float, half: int | None = None
) -> Equations:
    """Return the equations of this rank's lattices, or of those of a half set."""
    of_scatter = scatter_of(problem.reflections, about, fraction)

    def parts() -> Iterator[Equations]:
        nothing = equations.no_lattices(len(problem.direction))
        yield equations.equations(nothing, about, of_scatter)
        for _, batch, of_lattice in batches():
            if half is not None:
                batch = equations.chosen(batch, of_lattice == half)
            yield equations.equations(batch, about, of_scatter)

    return equations.joined(parts())


def _better_fraction(
    problem: Problem, batches: Batches, whole: Equations, solved: Solution, fraction: float
) -> float:
    """Return the fraction of scatter that the lattices ask for. Collective."""
    about = whole.intensity
    information = problem.add(whole.normal.diagonal())
    of_scatter = scatter_of(problem.reflections, about, fraction)
    total = np.zeros(2)
    first = 0
    for _, batch, _ in batches():
        last = first + len(batch.loss)
        of_lattices = equations.parabolas(batch, about, of_scatter)
        own = solved._replace(unknowns=solved.unknowns[first:last])
        total += scatter.evidence(batch, of_lattices, own, about, information)
        first = last
    return better(fraction, Evidence(*problem.add(total)))


def _sigmas(
    problem: Problem, batches: Batches, marginal: Marginal, solved: Solution, fraction: float
) -> np.ndarray:
    """Return σ of the intensities. Collective."""
    about = marginal.equations.intensity
    n = len(about)
    of_scatter = scatter_of(problem.reflections, about, fraction)
    prior = solved.prior
    precision = np.outer(prior.direction, prior.direction) / prior.spread**2
    slopes = np.zeros((sigmas.N_DRAWS, n))
    first = 0
    for number, batch, _ in batches():
        last = first + len(batch.loss)
        of_lattices = equations.parabolas(batch, about, of_scatter)
        rng = np.random.default_rng([problem.seed, 1, number])
        held = marginal.held[first:last]
        slopes += sigmas.draws(batch, of_lattices, held, precision, rng, n)
        first = last
    slopes = problem.add(slopes)
    rng = np.random.default_rng([problem.seed, 0])
    slopes += np.sqrt(marginal.restraint.precision) * rng.standard_normal(slopes.shape)
    return sigmas.sigmas(marginal, slopes, np.maximum(solved.intensity, 0.0))


def _halves(
    problem: Problem,
    batches: Batches,
    solved: Solution,
    about: np.ndarray,
    fraction: float,
    before: Intensities | None,
) -> tuple[np.ndarray, float, float]:
    """Return the intensities (reflection, 2) of the half sets, and −ln L a lattice of each half's
    lattices with those of the other half, of this cycle and of the one before. Collective.
    """
    half = np.full((len(about), 2), np.nan)
    is_strong = np.zeros(half.shape, dtype=bool)
    marginals = []
    n_lattices = 0.0
    for number in range(2):
        own = _equations(problem, batches, about, fraction, number)
        n_own = problem.add(np.array([len(own.loss)], dtype=np.float64))[0]
        n_lattices += n_own
        if n_own:
            of_half = solution.solve(
                own, problem.direction, problem.add, spread=solved.prior.spread, n_rounds=1
            )
            marginal = Marginal(own, of_half.prior, problem.add)
            information = np.where(marginal.is_seen, marginal.information(), 0.0)
            is_known = information * problem.reflections.typical**2 > LARGEST_SIGMA**-2.0
            half[:, number] = np.where(is_known, of_half.intensity, np.nan)
            is_strong[:, number] = information * of_half.intensity**2 > LEAST_STRENGTH**2
            marginals.append((number, marginal))

    has_enough = is_strong.all(axis=1).sum() >= LEAST_COMMON * is_strong.any(axis=1).sum()

    def held_out(of_halves: np.ndarray) -> float:
        if not has_enough:
            return np.nan
        total = 0.0
        for number, marginal in marginals:
            other = of_halves[:, 1 - number]
            is_judged = np.isfinite(other) & is_strong[:, 1 - number]
            intensity = np.where(is_judged, other, about)
            total += solution.loss(marginal, intensity)
        return total / max(n_lattices, 1.0)

    return half, held_out(half), np.nan if before is None else held_out(before.half)
