"""Learning how mosaic domains are turned from the pixels of one lattice, or of many that share the
distribution.

The distribution is a set of non-negative weights on a grid of rotations. A pixel expects Σ
weight·template + plane, which expectation-maximization solves without ever going negative
(Richardson 1972, Lucy 1974; Shepp & Vardi 1982). Shoeboxes held out of everything decide when it
ends and whether what was learned is better than the smooth distribution. Between rounds lattices
are refined anew, empty nodes are dropped and the grid is made finer.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from spreadflow.analysis.pixels import lattice_fit, solve
from spreadflow.analysis.pixels.lattice_fit import Problem
from spreadflow.analysis.pixels.likelihood import FLOOR, Target, pixelwise, variance
from spreadflow.models import Mosaic
from spreadflow.physics import forward, geometry, layout, rotation
from spreadflow.physics.mosaic import GAUSS, continuous, merged
from spreadflow.physics.padding import to_few_sizes
from spreadflow.units import wavelength

FREE = ("scale", "rotation", "cell", "n_cells", "eta")
"""What is refined of a lattice between rounds; η with the continuous distribution alone."""

EXTENT = 3.0
"""η out to which the first grid reaches."""

COARSE = 2.0
"""Step of the first grid, in angular standard deviations of a domain's spot at the highest
resolution.
"""

FINE = 0.5
"""Step of the last grid, in the same unit."""

COARSEST = 0.6
"""η that the first step is at most: the grid can take the place of the continuous distribution."""

NODES = 2500
"""Of the first grid at most; its step grows where the distribution is wide."""

WIDTH = 0.5
"""Standard deviation of a node's own Gaussian, in steps of its grid."""

TEMPLATE_REACH = 3.5
"""Standard deviations out to which templates are followed: 0.2 % of their photons lie farther."""

BATCH = 64
"""Nodes whose templates are made at a time."""

HELD_OUT = 6
"""One of so many shoeboxes is held out."""

CHECK_INTERVAL = 10
"""Iterations between looks at the held-out shoeboxes."""

PATIENCE = 3
"""Looks without gain that end a round."""

MAX_ITERATIONS = 200
"""Iterations of a round, at most."""

GAIN = 1.0
"""Fall of −ln L of the held-out shoeboxes that counts as one."""

STEP_POWER = 1.8
"""Power of the multiplicative step: expectation-maximization has 1; below 2 it ends at the same
weights, sooner.
"""

FAINT_WEIGHT = 0.02
"""Weight that the nodes dropped may hold together when a finer grid begins."""

NEGLIGIBLE_WEIGHTS = (0.03, 0.05)
"""Weight that the nodes dropped may hold together, between grids and at the end."""

PLANES = 2
"""Rounds of reweighting in which planes are fitted."""

Add = Callable[[list[np.ndarray]], np.ndarray]
"""Sums equal arrays, one of each lattice, over the lattices of all ranks; every rank calls it
equally often.
"""


def sum_up(arrays: list[np.ndarray]) -> np.ndarray:
    """Return where one rank has all lattices."""
    return np.sum(arrays, axis=0)


class Round(NamedTuple):
    """One grid."""

    step_rad: float
    n_grid: int
    """nodes"""
    n_nodes: int
    """those kept"""
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
        return self.rounds[-1].held_out

    @property
    def is_better(self) -> bool:
        """Held-out shoeboxes are likelier than under the continuous distribution. If not, keep to
        that one.
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
    """Learn the distribution that lattices share, in the lab frame; of one lattice alone where
    there is but one.

    problems: start near their continuous fits; a rank may have none. eta_rad: of the continuous
    distribution; the first grid reaches 3 η. seeds: of the random choice of what is held out, for
    each lattice. fine: step of the last grid, in angular widths of a domain. add: collective.
    """
    how = _How(free, n_axes, target, eta_rad, add)
    seeds = [(0, n) for n in range(len(problems))] if seeds is None else seeds
    split = [
        _split(p, np.random.default_rng(seed)) for p, seed in zip(problems, seeds, strict=True)
    ]
    smooth = [_placed(p, continuous(), eta_rad) for p in problems]
    fits = [_refined(p, t, how) for p, t in zip(smooth, split, strict=True)]
    before = _held_out(fits, split, how)
    steps = _steps(fits, eta_rad, fine, add)
    fits = _with(continuous()._replace(eta_rad=np.float64(eta_rad)), fits, split, how)
    grid = _ball(EXTENT * eta_rad, steps[0], eta_rad)
    rounds = []
    for i, step in enumerate(steps):
        if i:
            fits = _with(_mosaic(grid, eta_rad), fits, split, how)
            grid = _finer(grid, step)
        n_grid = len(grid.weight)
        grid, n, loss = _maximized(grid, fits, split, NEGLIGIBLE_WEIGHTS[i == len(steps) - 1], how)
        rounds.append(Round(step, n_grid, len(grid.weight), n, loss))
    made = merged(
        _mosaic(grid, eta_rad), grid.step / fine
    )  # to cells as wide as a domain: fewer, and no worse
    return LearnedMosaic(*_centred(made, fits), before, rounds)


class _How(NamedTuple):
    """Of refinements and sums."""

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


def _split(of: Problem, rng: np.random.Generator) -> _Split:
    """Return one of every `HELD_OUT` shoeboxes, at random among those of about the same brightness,
    is held out.
    """
    sizes = np.diff(of.data.start)
    box = np.repeat(np.arange(len(sizes)), sizes)
    order = np.argsort(-np.bincount(box, _bragg(of), len(sizes)), kind="stable")
    teaches = np.ones(len(sizes), dtype=bool)
    for start in range(0, len(sizes) - HELD_OUT + 1, HELD_OUT):
        teaches[order[start + rng.integers(HELD_OUT)]] = False
    return _Split(teaches, teaches[box])


# ---------------------------------------------------------------- lattices


def _placed(of: Problem, mosaic: Mosaic, eta_rad: float) -> Problem:
    """Return the problem with another distribution; η is the unit of its widths."""
    crystal = of.start.crystal._replace(eta_rad=np.float64(eta_rad))
    return of._replace(start=of.start._replace(crystal=crystal, mosaic=mosaic))


def _with(
    mosaic: Mosaic, fits: Sequence[Problem], split: Sequence[_Split], how: _How
) -> list[Problem]:
    """Return lattices refined with a distribution whose unit is no unknown: N, which goes with η,
    has to fit it.
    """
    return [
        _refined(_placed(p, mosaic, how.eta_rad), t, how) for p, t in zip(fits, split, strict=True)
    ]


def _refined(of: Problem, split: _Split, how: _How) -> Problem:
    """Return the problem that starts where the shoeboxes that teach are likeliest."""
    boxes = of.boxes
    rows = [split.box] * 3 + [np.repeat(split.box, of.boxes.n_pixels)] * 2
    part = type(boxes)(*(column[some] for column, some in zip(boxes, rows, strict=True)))
    start = np.concatenate([[0], np.cumsum(np.diff(of.data.start)[split.box])])
    data = solve.Data(of.data.photons[split.pixel], of.data.plane[split.pixel], start)
    chosen = of._replace(boxes=part, data=data)
    fit = lattice_fit.refine(chosen, how.free, n_axes=how.n_axes, target=how.target, is_rough=False)
    return lattice_fit.moved(of, fit.parameters)


def _bragg(of: Problem) -> np.ndarray:
    """Return (valid pixel,) Bragg photons at the start."""
    return lattice_fit.Model(of, ())(np.zeros(0))[0]


def _background(bragg: np.ndarray, of: Problem, split: _Split) -> tuple[float, np.ndarray]:
    """Return factor of the Bragg photons, from the shoeboxes that teach, and photons (valid pixel,)
    of all planes.
    """
    factor, planes = lattice_fit.planes_and_scale(bragg, of.data, of.noise, PLANES, split.pixel)
    return factor, solve.backgrounds(planes, of.data)


def _loss(of: Problem, model: np.ndarray, some: np.ndarray, target: Target) -> np.ndarray:
    """Return (1,) −ln L of some of the valid pixels."""
    return pixelwise(of.data.photons[some], model[some], of.noise, target).loss.sum(keepdims=True)


def _held_out(fits: Sequence[Problem], split: Sequence[_Split], how: _How) -> float:
    """Return −ln L of the held-out shoeboxes, their planes fitted. Collective."""
    losses = []
    for of, t in zip(fits, split, strict=True):
        bragg = _bragg(of)
        factor, plane = _background(bragg, of, t)
        losses.append(_loss(of, factor * bragg + plane, ~t.pixel, how.target))
    return float(how.add(losses)[0])


# ---------------------------------------------------------------- grids


class _Grid(NamedTuple):
    """Rotation vectors that are multiples of a step; weights sum to 1."""

    step: float
    """rad"""
    place: np.ndarray
    """(node, 3) int: the rotation vector in steps"""
    weight: np.ndarray
    """(node,)"""


def _steps(fits: Sequence[Problem], eta_rad: float, fine: float, add: Add) -> list[float]:
    """Steps of the grids, rad: halved from `COARSE` to `fine` widths of a domain, seen at the
    highest resolution.

    The last but one of three or more comes twice: once lattices are refined with its nodes, these
    fall into place.
    """
    total, n = add([np.array([_sharpest(p), 1.0]) for p in fits])
    least = EXTENT * eta_rad * (4.0 * np.pi / 3.0 / NODES) ** (1.0 / 3.0)
    first = max(min(COARSE * total / n, COARSEST * eta_rad), least)
    halvings = max(int(np.ceil(np.log2(first / (fine * total / n)) - 1e-9)), 0)
    steps = [first / 2**i for i in range(halvings + 1)]
    return [*steps[:-1], *steps[-2:]] if halvings > 1 else steps


def _sharpest(of: Problem) -> float:
    """Return angular standard deviation, rad, of a domain's spot of the longest reflection: of its
    size and of the squares that are averaged over, seen from the sample.
    """
    crystal = of.start.crystal
    detector = of.start.detector
    size = np.sqrt(GAUSS / 12) * np.linalg.norm(crystal.A / crystal.n_cells)
    box = int(np.linalg.norm(of.boxes.hkl @ crystal.A.T, axis=1).argmax())
    middle = 0.5 * (of.boxes.bbox[box, ::2] + of.boxes.bbox[box, 1::2])
    place = geometry.position(detector, of.boxes.panel[box], *middle)
    step = (
        of.start.edge_px
        * detector.pixel_mm
        / np.linalg.norm(place)
        / wavelength(of.start.spectrum.mean_energy_ev)
    )
    return float(np.hypot(size, step / np.sqrt(12)) / np.linalg.norm(crystal.A @ of.boxes.hkl[box]))


def _ball(radius: float, step: float, eta_rad: float) -> _Grid:
    """Return nodes within a radius, with the weights of the continuous distribution."""
    n = int(np.ceil(radius / step))
    place = np.stack(np.meshgrid(*[np.arange(-n, n + 1)] * 3, indexing="ij"), axis=-1).reshape(
        -1, 3
    )
    square = (place**2).sum(axis=1) * step**2
    inside = square <= radius**2
    weight = (np.exp(-0.5 * square / eta_rad**2) / (square + 0.5 * step**2))[inside]
    return _Grid(step, place[inside], weight / weight.sum())


def _heaviest(weight: np.ndarray, negligible: float) -> np.ndarray:
    """Return the nodes without the lightest, which hold so much together; 2ᵏ or 1.5·2ᵏ where there
    are: few programs.
    """
    order = np.argsort(-weight, kind="stable")
    n = int(np.searchsorted(np.cumsum(weight[order]), (1.0 - negligible) * weight.sum())) + 1
    return np.sort(order[: len(to_few_sizes(np.empty(n), 16))])


def _finer(grid: _Grid, step: float) -> _Grid:
    """Return the same distribution on the nodes around the old ones: weights interpolated linearly,
    the faintest left out.
    """
    ratio = round(grid.step / step)
    around = np.stack(
        np.meshgrid(*[np.arange(1 - ratio, ratio)] * 3, indexing="ij"), axis=-1
    ).reshape(-1, 3)
    part = np.prod(1.0 - np.abs(around) / ratio, axis=1) / ratio**3
    place = (ratio * grid.place[:, None] + around).reshape(-1, 3)
    place, of = np.unique(place, axis=0, return_inverse=True)
    weight = np.bincount(of.ravel(), (grid.weight[:, None] * part).ravel())
    kept = _heaviest(weight, FAINT_WEIGHT)
    return _Grid(step, place[kept], weight[kept] / weight[kept].sum())


def _mosaic(grid: _Grid, eta_rad: float) -> Mosaic:
    width = np.full(len(grid.weight), WIDTH * grid.step / eta_rad)
    return Mosaic(
        rotation.from_vector(grid.step * grid.place), width, grid.weight, np.float64(eta_rad)
    )


def _centred(mosaic: Mosaic, fits: Sequence[Problem]) -> tuple[Mosaic, list[Problem]]:
    """Return the rotation that set and lattices share goes to the lattices."""
    u = rotation.nearest(np.einsum("n,nij->ij", mosaic.share, mosaic.rotations))
    centred = mosaic._replace(rotations=mosaic.rotations @ u.T)
    out = []
    for of in fits:
        crystal = of.start.crystal._replace(A=u @ of.start.crystal.A, eta_rad=mosaic.eta_rad)
        out.append(lattice_fit.moved(of, of.start._replace(crystal=crystal, mosaic=centred)))
    return centred, out


# ---------------------------------------------------------------- weights


def templates(of: Problem, mosaic: Mosaic) -> csr_matrix:
    """Return (valid pixel, component) Bragg photons of the problem's start if one component had all
    domains.
    """
    n = len(mosaic.share)
    found = []
    for first in range(0, n, BATCH):
        some = np.minimum(np.arange(first, first + BATCH), n - 1)
        p = of.start._replace(
            mosaic=Mosaic(mosaic.rotations[some], mosaic.width[some], np.ones(BATCH))
        )
        pixels, pairs = layout.within(
            p, of.boxes.panel, of.boxes.bbox, TEMPLATE_REACH, of.oversample
        )
        photons = forward.each(p, to_few_sizes(pixels, 1 << 14), pairs)
        node = first + pairs.cloud % BATCH
        lit = (node < n) & (photons > 0)
        found.append((photons[lit].astype(np.float32), pairs.point[lit], node[lit]))
    values, point, node = (np.concatenate(c) for c in zip(*found, strict=True))
    means = lattice_fit.means(of.boxes, of.oversample, len(pixels.fast)).astype(np.float32)
    return csr_matrix(means @ csr_matrix((values, (point, node)), (len(pixels.fast), n)))


class _Seen(NamedTuple):
    """A lattice while weights are learned."""

    of: Problem
    split: _Split
    live: np.ndarray
    """valid pixels that teach and are lit by any node"""
    lit: csr_matrix
    """their templates"""
    held_out: csr_matrix
    """templates of the pixels held out"""

    def bragg(self, weight: np.ndarray) -> np.ndarray:
        """Return (valid pixel,) photons."""
        out = np.zeros(len(self.of.data.photons))
        q = weight.astype(np.float32)
        out[self.live], out[~self.split.pixel] = self.lit @ q, self.held_out @ q
        return out


def _seen(of: Problem, split: _Split, mosaic: Mosaic) -> _Seen:
    made = templates(of, mosaic)
    live = np.flatnonzero((np.diff(made.indptr) > 0) & split.pixel)
    return _Seen(of, split, live, made[live], made[~split.pixel])


class _Target(NamedTuple):
    """What the weights of a lattice are moved towards, its planes and scale fixed. Of live
    pixels.
    """

    lit: csr_matrix
    factor: float
    counted: np.ndarray
    """photons, readout variance added, never negative"""
    background: np.ndarray
    worth: np.ndarray
    """the variance of counting over that of the pixel: 1 where there is no other"""
    expected: np.ndarray
    """(node,) Σ worth·template"""


def _maximized(
    grid: _Grid, fits: Sequence[Problem], split: Sequence[_Split], negligible: float, how: _How
) -> tuple[_Grid, int, float]:
    """Return weights that make the pixels that teach likely, as far as the held-out ones agree;
    then empty nodes are dropped.

    Returns the nodes kept, how many iterations, and −ln L of the held-out pixels with these nodes.
    Collective.
    """
    mosaic = _mosaic(grid, how.eta_rad)
    seen = [_seen(p, t, mosaic) for p, t in zip(fits, split, strict=True)]
    weight = grid.weight
    best = grid.weight
    least = np.inf
    best_at = 0
    for n in range(0, MAX_ITERATIONS + 1, CHECK_INTERVAL):
        targets, held_out = _aimed(seen, weight, how)
        if held_out < least - GAIN:
            best = weight
            least = held_out
            best_at = n
        if n - best_at >= PATIENCE * CHECK_INTERVAL:
            break
        for _ in range(CHECK_INTERVAL):
            weight = _iterated(weight, targets, how.add)
    kept = _heaviest(best, negligible)
    weight = np.isin(np.arange(len(best)), kept) * best / best[kept].sum()
    return _Grid(grid.step, grid.place[kept], weight[kept]), best_at, _aimed(seen, weight, how)[1]


def _aimed(seen: Sequence[_Seen], weight: np.ndarray, how: _How) -> tuple[list[_Target], float]:
    """Return what to move the weights towards, and −ln L of the held-out pixels. Collective."""
    targets = []
    held_out = []
    for one in seen:
        bragg = one.bragg(weight)
        factor, plane = _background(bragg, one.of, one.split)
        model = factor * bragg + plane
        held_out.append(_loss(one.of, model, ~one.split.pixel, how.target))
        targets.append(_target(one, factor, plane[one.live], model[one.live]))
    return targets, float(how.add(held_out)[0])


def _target(one: _Seen, factor: float, plane: np.ndarray, model: np.ndarray) -> _Target:
    """Return the target of a lattice with planes and a model (live pixel,)."""
    readout = one.of.noise.readout_photons**2
    worth = (np.maximum(model, FLOOR) + readout) / variance(model, one.of.noise)
    counted = np.maximum(one.of.data.photons[one.live] + readout, 0.0)
    background = np.maximum(plane, FLOOR) + readout
    counted, background, worth = (c.astype(np.float32) for c in (counted, background, worth))
    expected = factor * (one.lit.T @ worth).astype(np.float64)
    return _Target(one.lit, factor, counted, background, worth, expected)


def _iterated(weight: np.ndarray, targets: Sequence[_Target], add: Add) -> np.ndarray:
    """Return one step: weight·(Σ template·worth·counted/model / Σ template·worth)^`HASTE`; sums to
    1. Collective.
    """
    sums = []
    q = weight.astype(np.float32)
    for t in targets:
        model = t.factor * (t.lit @ q) + t.background
        sums.append(np.stack([t.factor * (t.lit.T @ (t.worth * t.counted / model)), t.expected]))
    top, bottom = add(sums)
    moved = weight * np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0) ** STEP_POWER
    return moved / moved.sum()
