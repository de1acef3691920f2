"""Learning how mosaic domains are turned from the pixels of one lattice, or of many that share the
distribution.

The distribution is a set of non-negative weights on a grid of rotations. A pixel is expected to
hold Σ weight·template + plane, which expectation-maximization solves without ever going negative
(Richardson 1972, Lucy 1974; Shepp & Vardi 1982); it goes in strides, each an extrapolation
(Varadhan & Roland 2008). Shoeboxes that are held out of everything decide when it ends, and
whether what was learned is better than the continuous distribution. At the end of a round light
nodes are dropped, and their weight goes to those around them; between rounds lattices are refined
anew, and the grid is made finer. In the end nodes are merged into as few components as the
shoeboxes held out accept, because everything that is modelled with them takes as long as they are
many.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.pixels import (
    component_weights,
    lattice_fit,
    mixture_reduction,
    rotation_grid,
    solve,
)
from spreadflow.analysis.pixels.component_weights import Add, Split, TemplatedLattice, sum_up
from spreadflow.analysis.pixels.lattice_fit import Problem
from spreadflow.analysis.pixels.likelihood import Target
from spreadflow.analysis.pixels.rotation_grid import Grid
from spreadflow.models import Mosaic
from spreadflow.physics import geometry, rotation
from spreadflow.physics.lattice_factor import GAUSS
from spreadflow.physics.mosaic import continuous
from spreadflow.units import wavelength

FREE = ("scale", "rotation", "cell", "n_cells", "eta")
"""What is refined of a lattice between rounds; η with the continuous distribution alone."""

EXTENT = 3.0
"""Radius of the first grid, in η."""

COARSE = 2.0
"""Step of the first grid, in angular standard deviations of a domain's spot at the highest
resolution.
"""

FINE = 0.5
"""Step of the last grid, in the same unit."""

COARSEST = 0.6
"""Step of the first grid at most, in η: the grid can then take the place of the continuous
distribution.
"""

MAX_NODES = 2500
"""Nodes of the first grid at most; its step grows where the distribution is wide."""

HELD_OUT = 6
"""One of so many shoeboxes is held out."""

CHECK_INTERVAL = 2
"""Strides between looks at the held-out shoeboxes."""

MAX_STRIDES = 30
"""Strides of a round, at most."""

LAST_STRIDES = 2
"""Strides of the nodes that were kept, to which the weight of the others goes, and of components
into which nodes were merged.
"""

FAINT_WEIGHT = 0.03
"""Weight that the nodes dropped may hold together when a finer grid begins."""

FAINT_WEIGHT_WITHIN = 0.12
"""The same of grids finer than a domain is wide, whose nodes stand in for their neighbours."""

COMPONENTS_BETWEEN = 64
"""Components with which lattices are refined between rounds, at most: nodes are merged for it."""

FEWER = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Numbers of components that are tried in the end: few, so that few programs are compiled."""

LARGEST_LOSS = 0.01
"""Share of what held-out shoeboxes gained over the continuous distribution that they may lose for
fewer components.
"""


class _Ending(NamedTuple):
    """When the search on a grid ends, and what is left of it."""

    smallest_gain: float
    """fall of −ln L of the held-out shoeboxes that counts as one"""
    negligible: float
    """weight that the nodes dropped may hold together"""


COARSE_ENDING = _Ending(smallest_gain=5.0, negligible=0.06)
"""Of the grids before the last, which only tell where nodes are needed."""

LAST_ENDING = _Ending(smallest_gain=1.5, negligible=0.08)
"""Of the last grid."""


class Round(NamedTuple):
    """What was learned on one grid."""

    step_rad: float
    n_grid: int
    """nodes of the grid"""
    n_nodes: int
    """nodes that were kept"""
    n_iterations: int
    held_out: float
    """−ln L of the held-out shoeboxes with the nodes kept"""


class LearnedMosaic(NamedTuple):
    """What `learn` found."""

    mosaic: Mosaic
    """centred: its mean rotation is none"""
    problems: list[Problem]
    """with all their shoeboxes, to be refined with the set; A is the mean over its domains"""
    continuous: float
    """−ln L of the held-out shoeboxes under the continuous distribution"""
    held_out: float
    """−ln L of the held-out shoeboxes under the learned distribution"""
    rounds: list[Round]

    @property
    def is_better(self) -> bool:
        """Whether held-out shoeboxes are likelier than under the continuous distribution, which is
        to be kept if they are not.
        """
        return self.held_out < self.continuous


def learn(
    problems: Sequence[Problem],
    *,
    eta_rad: float,
    seeds: Sequence[Sequence[int]] | None = None,
    fine: float = FINE,
    free: tuple[str, ...] = FREE,
    n_axes: int = 1,
    target: Target = "normal",
    add: Add = sum_up,
) -> LearnedMosaic:
    """Learn the distribution that lattices share, in the lab frame, or that of one lattice alone.

    problems: start near their continuous fits; a rank may have none. eta_rad: of the continuous
    distribution; the first grid reaches out to 3 η. seeds: of the random choice of what is held
    out, for each lattice. fine: step of the last grid, in angular widths of a domain. Collective.
    """
    settings = _Settings(free, n_axes, target, eta_rad, add)
    if seeds is None:
        seeds = [(0, n) for n in range(len(problems))]
    splits = [
        _split(problem, np.random.default_rng(seed))
        for problem, seed in zip(problems, seeds, strict=True)
    ]
    smooth = [_placed(problem, continuous(), eta_rad) for problem in problems]
    fits = [
        _refined(problem, split, settings) for problem, split in zip(smooth, splits, strict=True)
    ]
    loss_before = _held_out(fits, splits, settings)

    steps = _steps(fits, eta_rad, fine, add)
    domain_rad = steps[-1] / fine
    of_fixed_unit = continuous()._replace(eta_rad=np.float64(eta_rad))
    fits = _refined_with(of_fixed_unit, fits, splits, settings)
    grid = rotation_grid.ball(EXTENT * eta_rad, steps[0], eta_rad)
    rounds = []
    for i, step in enumerate(steps):
        if i:
            of_nodes = rotation_grid.mosaic(grid, eta_rad)
            few = mixture_reduction.reduced(of_nodes, COMPONENTS_BETWEEN, domain_rad)
            fits = _refined_with(few, fits, splits, settings)
            negligible = FAINT_WEIGHT_WITHIN if step < domain_rad else FAINT_WEIGHT
            grid = rotation_grid.finer(grid, step, negligible)
        ending = LAST_ENDING if i == len(steps) - 1 else COARSE_ENDING
        n_grid = len(grid.weight)
        grid, n_iterations, loss = _maximized(grid, fits, splits, ending, settings)
        rounds.append(Round(step, n_grid, len(grid.weight), n_iterations, loss))

    of_nodes = rotation_grid.mosaic(grid, eta_rad)
    accepted = loss + max(LARGEST_LOSS * (loss_before - loss), LAST_ENDING.smallest_gain)
    mosaic, loss = _with_few_components(of_nodes, accepted, domain_rad, fits, splits, settings)
    mosaic, centred = _centred(mosaic, fits)
    return LearnedMosaic(mosaic, centred, loss_before, loss, rounds)


class _Settings(NamedTuple):
    """How lattices are refined, and sums formed."""

    free: tuple[str, ...]
    n_axes: int
    target: Target
    eta_rad: float
    """unit of the widths of distributions"""
    add: Add


def _split(problem: Problem, rng: np.random.Generator) -> Split:
    """Hold out one of every `HELD_OUT` shoeboxes, at random among those of about the same
    brightness.
    """
    sizes = np.diff(problem.data.start)
    n_boxes = len(sizes)
    box = np.repeat(np.arange(n_boxes), sizes)
    brightness = np.bincount(box, _bragg(problem), n_boxes)
    order = np.argsort(-brightness, kind="stable")
    teaches = np.ones(n_boxes, dtype=bool)
    for first in range(0, n_boxes - HELD_OUT + 1, HELD_OUT):
        drawn = first + rng.integers(HELD_OUT)
        teaches[order[drawn]] = False
    return Split(box=teaches, pixel=teaches[box])


# ---------------------------------------------------------------- lattices


def _placed(problem: Problem, mosaic: Mosaic, eta_rad: float) -> Problem:
    """Return the problem with another distribution; η is the unit of its widths."""
    start = problem.start
    crystal = start.crystal._replace(eta_rad=np.float64(eta_rad))
    return problem._replace(start=start._replace(crystal=crystal, mosaic=mosaic))


def _refined_with(
    mosaic: Mosaic, fits: Sequence[Problem], splits: Sequence[Split], settings: _Settings
) -> list[Problem]:
    """Return the lattices refined with a distribution whose unit is no unknown: N, which goes with
    η, has to fit it. Clouds are followed as far as those of templates.
    """
    return [
        _refined(
            _placed(problem, mosaic, settings.eta_rad),
            split,
            settings,
            component_weights.TEMPLATE_REACH,
        )
        for problem, split in zip(fits, splits, strict=True)
    ]


def _refined(
    problem: Problem, split: Split, settings: _Settings, reach: float = lattice_fit.REACH
) -> Problem:
    """Return the problem that starts where the shoeboxes that teach are likeliest. reach: standard
    deviations out to which clouds are followed.
    """
    boxes = problem.boxes
    data = problem.data
    teaching_boxes = boxes.chosen(split.box)
    n_valid = np.diff(data.start)[split.box]
    teaching_data = solve.Data(
        photons=data.photons[split.pixel],
        plane=data.plane[split.pixel],
        start=np.concatenate([[0], np.cumsum(n_valid)]),
    )
    teaching = problem._replace(boxes=teaching_boxes, data=teaching_data)
    fit = lattice_fit.refine(
        teaching,
        settings.free,
        n_axes=settings.n_axes,
        target=settings.target,
        is_rough=False,
        reach=reach,
    )
    return lattice_fit.moved(problem, fit.parameters)


def _bragg(problem: Problem) -> np.ndarray:
    """Return the Bragg photons (valid pixel,) at the start."""
    photons, _ = lattice_fit.Model(problem, ())(np.zeros(0))
    return photons


def _held_out(fits: Sequence[Problem], splits: Sequence[Split], settings: _Settings) -> float:
    """Return −ln L of the held-out shoeboxes, their planes fitted. Collective."""
    losses = []
    for problem, split in zip(fits, splits, strict=True):
        bragg = _bragg(problem)
        factor, background = component_weights.fitted_background(bragg, problem, split)
        model = factor * bragg + background
        losses.append(
            component_weights.selected_loss(problem, model, ~split.pixel, settings.target)
        )
    return float(settings.add(losses)[0])


# ---------------------------------------------------------------- grids


def _steps(fits: Sequence[Problem], eta_rad: float, fine: float, add: Add) -> list[float]:
    """Return the steps of the grids, rad: halved from `COARSE` to `fine` widths of a domain, seen
    at the highest resolution.

    The last but one of three or more comes twice: once lattices are refined with its nodes, these
    fall into place. Collective.
    """
    total, n = add([np.array([_sharpest(problem), 1.0]) for problem in fits])
    coarsest = min(COARSE * total / n, COARSEST * eta_rad)
    finest = fine * total / n

    # no step is so small that the first grid's ball holds more than MAX_NODES
    share_of_ball = 4.0 * np.pi / 3.0 / MAX_NODES
    smallest = EXTENT * eta_rad * share_of_ball ** (1.0 / 3.0)

    first = max(coarsest, smallest)
    octaves = np.log2(first / finest)
    n_halvings = max(int(np.ceil(octaves - 1e-9)), 0)
    steps = [first / 2**i for i in range(n_halvings + 1)]
    if n_halvings > 1:
        steps.insert(-1, steps[-2])
    return steps


def _sharpest(problem: Problem) -> float:
    """Return the angular standard deviation, rad, of a domain's spot of the longest reflection,
    seen from the sample: that of its size, and of the squares that are averaged over.
    """
    start = problem.start
    crystal = start.crystal
    detector = start.detector
    boxes = problem.boxes
    size_sigma = np.sqrt(GAUSS / 12) * np.linalg.norm(crystal.A / crystal.n_cells)

    q_lengths = np.linalg.norm(boxes.hkl @ crystal.A.T, axis=1)
    box = int(q_lengths.argmax())
    longest = np.linalg.norm(crystal.A @ boxes.hkl[box])

    low = boxes.bbox[box, ::2]
    high = boxes.bbox[box, 1::2]
    middle = 0.5 * (low + high)
    place_mm = geometry.position(detector, boxes.panel[box], *middle)
    edge_rad = start.edge_px * detector.pixel_mm / np.linalg.norm(place_mm)
    edge = edge_rad / wavelength(start.spectrum.mean_energy_ev)

    sigma = np.hypot(size_sigma, edge / np.sqrt(12))
    return float(sigma / longest)


def _centred(mosaic: Mosaic, fits: Sequence[Problem]) -> tuple[Mosaic, list[Problem]]:
    """Return the distribution about its mean rotation, which goes to the lattices."""
    weighted_sum = np.einsum("n,nij->ij", mosaic.share, mosaic.rotations)
    mean = rotation.nearest(weighted_sum)
    centred = mosaic._replace(rotations=mosaic.rotations @ mean.T)
    out = []
    for problem in fits:
        start = problem.start
        crystal = start.crystal._replace(A=mean @ start.crystal.A, eta_rad=mosaic.eta_rad)
        turned = start._replace(crystal=crystal, mosaic=centred)
        out.append(lattice_fit.moved(problem, turned))
    return centred, out


# ---------------------------------------------------------------- weights


def _maximized(
    grid: Grid,
    fits: Sequence[Problem],
    splits: Sequence[Split],
    ending: _Ending,
    settings: _Settings,
) -> tuple[Grid, int, float]:
    """Return the grid with weights that make the pixels that teach likely, as far as those held out
    agree, and without the lightest nodes, whose weight goes to the others in some more strides.

    With it come the number of iterations, and −ln L of the held-out pixels with the nodes kept.
    Collective.
    """
    mosaic = rotation_grid.mosaic(grid, settings.eta_rad)
    lattices = component_weights.all_templated(fits, splits, mosaic)
    weight = grid.weight
    best = grid.weight
    smallest_loss = np.inf
    n_best = 0
    for n in range(0, MAX_STRIDES + 1, CHECK_INTERVAL):
        expectations, loss = component_weights.expectations(
            lattices, weight, settings.target, settings.add
        )
        if not loss < smallest_loss - ending.smallest_gain:
            break
        best = weight
        smallest_loss = loss
        n_best = n
        for _ in range(CHECK_INTERVAL):
            weight = component_weights.after_stride(weight, expectations, settings.add)

    rows = rotation_grid.heaviest(best, ending.negligible)
    kept = np.isin(np.arange(len(best)), rows) * best / best[rows].sum()
    weight, loss = _after_last_strides(lattices, kept, settings)
    n_iterations = component_weights.ITERATIONS_OF_STRIDE * (n_best + LAST_STRIDES)
    return Grid(grid.step, grid.place[rows], weight[rows]), n_iterations, loss


def _after_last_strides(
    lattices: Sequence[TemplatedLattice], weight: np.ndarray, settings: _Settings
) -> tuple[np.ndarray, float]:
    """Return the weights (node,) after the last strides, or as they are where the held-out pixels
    are likelier so, and −ln L of these pixels. Collective.
    """
    expectations, loss_before = component_weights.expectations(
        lattices, weight, settings.target, settings.add
    )
    moved = weight
    for _ in range(LAST_STRIDES):
        moved = component_weights.after_stride(moved, expectations, settings.add)
    _, loss = component_weights.expectations(lattices, moved, settings.target, settings.add)
    return (moved, loss) if loss < loss_before else (weight, loss_before)


def _with_few_components(
    mosaic: Mosaic,
    accepted: float,
    blur_rad: float,
    fits: Sequence[Problem],
    splits: Sequence[Split],
    settings: _Settings,
) -> tuple[Mosaic, float]:
    """Return the distribution with the fewest components with which −ln L of the held-out pixels is
    below the one accepted, or with all; and that −ln L. Collective.

    blur_rad: angular width of a domain.
    """
    mixtures = [mosaic]
    for n_components in reversed(FEWER):
        if n_components < len(mosaic.share):
            fewer = mixture_reduction.reduced(mixtures[-1], n_components, blur_rad)
            mixtures.append(fewer)
    for few in reversed(mixtures):
        lattices = component_weights.all_templated(fits, splits, few)
        share, loss = _after_last_strides(lattices, few.share, settings)
        if loss < accepted:
            break
    return few._replace(share=share), loss
