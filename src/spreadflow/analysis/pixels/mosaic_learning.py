"""Learning how mosaic domains are turned from the pixels of one lattice, or of many that share the
distribution.

The distribution is a set of non-negative weights on a grid of rotations. A pixel is expected to
hold Σ weight·template + plane, which expectation-maximization solves without ever going negative
(Richardson 1972, Lucy 1974; Shepp & Vardi 1982); it goes in strides, each an extrapolation
(Varadhan & Roland 2008). Shoeboxes that are held out of everything decide when it ends, and
whether what was learned is better than the continuous distribution. At the end of a round light
nodes are dropped, and their weight goes to those around them; between rounds lattices are refined
anew, and the grid is made finer.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy

from spreadflow.analysis.pixels import lattice_fit, rotation_grid, solve, weight_loops
from spreadflow.analysis.pixels.lattice_fit import Problem
from spreadflow.analysis.pixels.likelihood import FLOOR, Target, pixelwise, variance
from spreadflow.analysis.pixels.rotation_grid import Grid
from spreadflow.analysis.pixels.weight_loops import LitPixels
from spreadflow.models import Mosaic
from spreadflow.physics import geometry, rotation
from spreadflow.physics.components import by_component
from spreadflow.physics.lattice_factor import GAUSS
from spreadflow.physics.mosaic import continuous, merged
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

TEMPLATE_REACH = 3.5
"""Standard deviations out to which templates are followed: 0.2 % of their photons lie farther."""

HELD_OUT = 6
"""One of so many shoeboxes is held out."""

CHECK_INTERVAL = 2
"""Strides between looks at the held-out shoeboxes."""

MAX_STRIDES = 30
"""Strides of a round, at most."""

LONGEST_STRIDE = 16.0
"""Iterations that a stride extrapolates over, at most."""

LARGEST_CHANGE = 3.0
"""Change of ln of a weight by which a stride may lengthen iterations, at most."""

SMALLEST_WEIGHT = 1e-12
"""Weight of a node that counts as none."""

LAST_STRIDES = 2
"""Strides of the nodes that were kept: what the others had goes to their neighbours."""

PLANE_ROUNDS = 2
"""Rounds of reweighting in which planes are fitted."""

ITERATIONS_OF_STRIDE = 3
"""Iterations that a stride takes."""


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

Add = Callable[[list[np.ndarray]], np.ndarray]
"""Sums equal arrays, one of each lattice, over the lattices of all ranks; every rank calls it
equally often.
"""


def sum_up(arrays: list[np.ndarray]) -> np.ndarray:
    """Return the sum of arrays where one rank has all lattices."""
    return np.sum(arrays, axis=0)


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
    rounds: list[Round]

    @property
    def held_out(self) -> float:
        """−ln L of the held-out shoeboxes under the learned distribution."""
        return self.rounds[-1].held_out

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
    of_fixed_unit = continuous()._replace(eta_rad=np.float64(eta_rad))
    fits = _refined_with(of_fixed_unit, fits, splits, settings)
    grid = rotation_grid.ball(EXTENT * eta_rad, steps[0], eta_rad)
    rounds = []
    for i, step in enumerate(steps):
        if i:
            fits = _refined_with(rotation_grid.mosaic(grid, eta_rad), fits, splits, settings)
            grid = rotation_grid.finer(grid, step)
        ending = LAST_ENDING if i == len(steps) - 1 else COARSE_ENDING
        n_grid = len(grid.weight)
        grid, n_iterations, loss = _maximized(grid, fits, splits, ending, settings)
        rounds.append(Round(step, n_grid, len(grid.weight), n_iterations, loss))

    # to cells as wide as a domain: fewer, and no worse
    mosaic = merged(rotation_grid.mosaic(grid, eta_rad), grid.step / fine)
    mosaic, centred = _centred(mosaic, fits)
    return LearnedMosaic(mosaic, centred, loss_before, rounds)


class _Settings(NamedTuple):
    """How lattices are refined, and sums formed."""

    free: tuple[str, ...]
    n_axes: int
    target: Target
    eta_rad: float
    """unit of the widths of distributions"""
    add: Add


class _Split(NamedTuple):
    """Which shoeboxes of a lattice teach; the others are held out."""

    box: np.ndarray
    """(box,) bool"""
    pixel: np.ndarray
    """(valid pixel,) bool"""


def _split(problem: Problem, rng: np.random.Generator) -> _Split:
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
    return _Split(box=teaches, pixel=teaches[box])


# ---------------------------------------------------------------- lattices


def _placed(problem: Problem, mosaic: Mosaic, eta_rad: float) -> Problem:
    """Return the problem with another distribution; η is the unit of its widths."""
    start = problem.start
    crystal = start.crystal._replace(eta_rad=np.float64(eta_rad))
    return problem._replace(start=start._replace(crystal=crystal, mosaic=mosaic))


def _refined_with(
    mosaic: Mosaic, fits: Sequence[Problem], splits: Sequence[_Split], settings: _Settings
) -> list[Problem]:
    """Return the lattices refined with a distribution whose unit is no unknown: N, which goes with
    η, has to fit it. Clouds are followed as far as those of templates.
    """
    return [
        _refined(_placed(problem, mosaic, settings.eta_rad), split, settings, TEMPLATE_REACH)
        for problem, split in zip(fits, splits, strict=True)
    ]


def _refined(
    problem: Problem, split: _Split, settings: _Settings, reach: float = lattice_fit.REACH
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


def _background(bragg: np.ndarray, problem: Problem, split: _Split) -> tuple[float, np.ndarray]:
    """Return the factor of the Bragg photons, from the shoeboxes that teach, and the photons (valid
    pixel,) of all planes.
    """
    factor, planes = lattice_fit.planes_and_scale(
        bragg, problem.data, problem.noise, PLANE_ROUNDS, split.pixel
    )
    return factor, solve.backgrounds(planes, problem.data)


def _loss(problem: Problem, model: np.ndarray, selected: np.ndarray, target: Target) -> np.ndarray:
    """Return −ln L (1,) of selected pixels under a model; model, selected: (valid pixel,)."""
    photons = problem.data.photons[selected]
    by_pixel = pixelwise(photons, model[selected], problem.noise, target)
    return by_pixel.loss.sum(keepdims=True)


def _held_out(fits: Sequence[Problem], splits: Sequence[_Split], settings: _Settings) -> float:
    """Return −ln L of the held-out shoeboxes, their planes fitted. Collective."""
    losses = []
    for problem, split in zip(fits, splits, strict=True):
        bragg = _bragg(problem)
        factor, background = _background(bragg, problem, split)
        model = factor * bragg + background
        losses.append(_loss(problem, model, ~split.pixel, settings.target))
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


def templates(problem: Problem, mosaic: Mosaic) -> "scipy.sparse.csr_matrix":
    """Return the Bragg photons (valid pixel, component) of the problem's start if one component had
    all domains.
    """
    start = problem.start._replace(mosaic=mosaic)
    return by_component(start, problem.boxes, problem.oversample, TEMPLATE_REACH)


class _TemplatedLattice(NamedTuple):
    """A lattice with its templates, from which weights are learned."""

    problem: Problem
    split: _Split
    lit_pixels: np.ndarray
    """valid pixels that teach and are lit by any node"""
    lit: "scipy.sparse.csr_matrix"
    """their templates"""
    held_out: "scipy.sparse.csr_matrix"
    """templates of the pixels held out"""

    def bragg(self, weight: np.ndarray) -> np.ndarray:
        """Return the Bragg photons (valid pixel,) of weights (node,)."""
        photons = np.zeros(len(self.problem.data.photons))
        single = weight.astype(np.float32)
        photons[self.lit_pixels] = self.lit @ single
        photons[~self.split.pixel] = self.held_out @ single
        return photons


def _templated(problem: Problem, split: _Split, mosaic: Mosaic) -> _TemplatedLattice:
    """Return a lattice with its templates of the components of a distribution."""
    of_pixels = templates(problem, mosaic)
    lit_pixels = np.flatnonzero((np.diff(of_pixels.indptr) > 0) & split.pixel)
    return _TemplatedLattice(
        problem, split, lit_pixels, of_pixels[lit_pixels], of_pixels[~split.pixel]
    )


class _Expectation(NamedTuple):
    """What a lattice says about the weights while its planes and scale are fixed; pixels are the
    lit ones.
    """

    lit: LitPixels
    factor: float
    expected: np.ndarray
    """(node,) Σ factor·counting_share·template"""


def _maximized(
    grid: Grid,
    fits: Sequence[Problem],
    splits: Sequence[_Split],
    ending: _Ending,
    settings: _Settings,
) -> tuple[Grid, int, float]:
    """Return the grid with weights that make the pixels that teach likely, as far as those held out
    agree, and without the lightest nodes, whose weight goes to the others in some more strides.

    With it come the number of iterations, and −ln L of the held-out pixels with the nodes kept.
    Collective.
    """
    mosaic = rotation_grid.mosaic(grid, settings.eta_rad)
    lattices = [
        _templated(problem, split, mosaic) for problem, split in zip(fits, splits, strict=True)
    ]
    weight = grid.weight
    best = grid.weight
    smallest_loss = np.inf
    n_best = 0
    for n in range(0, MAX_STRIDES + 1, CHECK_INTERVAL):
        expectations, loss = _expectations(lattices, weight, settings)
        if not loss < smallest_loss - ending.smallest_gain:
            break
        best = weight
        smallest_loss = loss
        n_best = n
        for _ in range(CHECK_INTERVAL):
            weight = _after_stride(weight, expectations, settings.add)

    rows = rotation_grid.heaviest(best, ending.negligible)
    kept = np.isin(np.arange(len(best)), rows) * best / best[rows].sum()
    expectations, loss_of_kept = _expectations(lattices, kept, settings)
    weight = kept
    for _ in range(LAST_STRIDES):
        weight = _after_stride(weight, expectations, settings.add)
    _, loss = _expectations(lattices, weight, settings)
    if not loss < loss_of_kept:
        weight = kept
        loss = loss_of_kept
    n_iterations = ITERATIONS_OF_STRIDE * (n_best + LAST_STRIDES)
    return Grid(grid.step, grid.place[rows], weight[rows]), n_iterations, loss


def _expectations(
    lattices: Sequence[_TemplatedLattice], weight: np.ndarray, settings: _Settings
) -> tuple[list[_Expectation], float]:
    """Return what each lattice says about the weights, with planes and scale that suit `weight`
    (node,), and −ln L of the held-out pixels. Collective.
    """
    expectations = []
    losses = []
    for lattice in lattices:
        bragg = lattice.bragg(weight)
        factor, background = _background(bragg, lattice.problem, lattice.split)
        model = factor * bragg + background
        losses.append(_loss(lattice.problem, model, ~lattice.split.pixel, settings.target))
        lit_pixels = lattice.lit_pixels
        expectations.append(
            _expectation(lattice, factor, background[lit_pixels], model[lit_pixels])
        )
    return expectations, float(settings.add(losses)[0])


def _expectation(
    lattice: _TemplatedLattice, factor: float, background: np.ndarray, model: np.ndarray
) -> _Expectation:
    """Return what a lattice says whose lit pixels have a background and a model (pixel,)."""
    noise = lattice.problem.noise
    readout = noise.readout_photons**2
    counting_share = (np.maximum(model, FLOOR) + readout) / variance(model, noise)
    counted = np.maximum(lattice.problem.data.photons[lattice.lit_pixels] + readout, 0.0)
    background = np.maximum(background, FLOOR) + readout
    lit = LitPixels(
        ends=lattice.lit.indptr,
        node=lattice.lit.indices,
        template=lattice.lit.data,
        counted=counted,
        background=background,
        counting_share=counting_share,
    )
    return _Expectation(lit, factor, expected=factor * (lattice.lit.T @ counting_share))


def _after_stride(weight: np.ndarray, expectations: Sequence[_Expectation], add: Add) -> np.ndarray:
    """Return the weights (node,) after two iterations, an extrapolation and a third: squared
    extrapolation (Varadhan & Roland 2008) of ln weight, which stays finite. Collective.
    """
    once = _iterated(weight, expectations, add)
    twice = _iterated(once, expectations, add)
    logs = [np.log(np.maximum(one, SMALLEST_WEIGHT)) for one in (weight, once, twice)]
    first_step = logs[1] - logs[0]
    bend = (logs[2] - logs[1]) - first_step
    length_square = (weight * first_step**2).sum()
    bend_square = (weight * bend**2).sum()
    length = LONGEST_STRIDE
    if length_square < LONGEST_STRIDE**2 * bend_square:
        length = max(float(np.sqrt(length_square / bend_square)), 1.0)
    change = 2.0 * length * first_step + length**2 * bend
    lengthened = np.clip(change - (logs[2] - logs[0]), -LARGEST_CHANGE, LARGEST_CHANGE)
    extrapolated = twice * np.exp(lengthened)
    return _iterated(extrapolated / extrapolated.sum(), expectations, add)


def _iterated(weight: np.ndarray, expectations: Sequence[_Expectation], add: Add) -> np.ndarray:
    """Return the weights (node,), which sum to 1, after one step: weight·Σ
    template·counting_share·counted/model / Σ template·counting_share. Collective.
    """
    sums = []
    for of_lattice in expectations:
        observed = weight_loops.observed(of_lattice.lit, of_lattice.factor, weight)
        sums.append(np.stack([observed, of_lattice.expected]))
    observed, expected = add(sums)
    ratio = np.divide(observed, expected, out=np.zeros_like(observed), where=expected > 0)
    moved = weight * ratio
    return moved / moved.sum()
