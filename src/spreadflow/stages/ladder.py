"""ladder: the regression series on the pixels of an annulus, rung by rung on the same lattices.

Rung 00 reads every lattice before anything else; the blocks of the others are the parts of the
annulus. A rung starts from the one before, so that no more ranks model lattices than there are
lattices to model.
"""

import resource
import time
from logging import Logger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow import build
from spreadflow.analysis.least_squares import Unsolvable
from spreadflow.analysis.pixels import ladder, shoeboxes, solve
from spreadflow.analysis.pixels.rungs import RUNGS
from spreadflow.analysis.strength import i_over_sigma
from spreadflow.config import LadderConfig
from spreadflow.errors import LatticeOutcome
from spreadflow.io import store
from spreadflow.io.pieces import Piece
from spreadflow.log import logger
from spreadflow.models import Mosaic, ReflectionFlag
from spreadflow.parallel import World
from spreadflow.physics import mosaic, rotation
from spreadflow.products import Annulus, Cells, Ladder
from spreadflow.products.annulus import Reflections
from spreadflow.products.core import LatticeIdentity
from spreadflow.products.ladder import Pixels, Samples
from spreadflow.recipes.lattice import PackedLattice, RunModel, start_of, unpack
from spreadflow.stages import blocks as skeleton
from spreadflow.stages.pixel_models import inputs_of, read_models, sections_of
from spreadflow.units import DEG

DRAW = 100
"""Number of the purpose of the random stream of the model's domains; the simulation uses none of
this number.
"""

TURN = 101
"""Number of the purpose of the random streams of the turns that lattices start with; the simulation
uses none of this number.
"""

ONLY_READ = 0.01
"""What a lattice costs that is only read, beside one that is modelled."""

MOST_READ = 8
"""Lattices of a piece, at most: about as many as an annulus has in a part."""


class Context(NamedTuple):
    """What all blocks share."""

    config: LadderConfig
    parts: list[store.Part[Annulus]]
    """of the annulus"""
    chosen: list[np.ndarray]
    """of each part (lattice,) bool: lattices that are modelled"""
    models: list[RunModel]
    """of each run; none where every block is finished"""
    section: dict[str, Any]
    """section that the annulus was made with"""
    log: Logger


def run(
    config: LadderConfig,
    *,
    annulus: Path,
    cells: Path,
    out: Path,
    world: World,
    word: str = "ladder",
) -> None:
    """Write <word>.h5 with its parts.

    cells: cells.h5, whose accepted lattices rung 00 has to find in the annulus.
    """
    section = config.ladder
    log = logger(word, world)
    attributes = store.attributes(annulus, Annulus)
    of_annulus = store.parts_of(annulus, Annulus)
    reading = _read_all(of_annulus, cells, world)
    words = (
        "%(n_read)d of %(n_accepted)d accepted lattices read, memory grew by "
        "%(growth_percent).1f %%"
    )
    log.info(words, reading)
    ids, chosen = _choose(annulus, of_annulus, section.n_lattices)
    sections = sections_of(config, section)
    inputs = inputs_of(config, [annulus])
    parts = store.Parts(out, Ladder, store.digest(sections, inputs), ids)
    models = []
    if not parts.are_done(world):
        models = read_models(config, annulus, "annulus", word, log)
    context = Context(
        config=config,
        parts=of_annulus,
        chosen=chosen,
        models=models,
        section=attributes["config"],
        log=log,
    )

    def make(piece: Piece) -> Ladder:
        n_modelled = int(chosen[piece.block][piece.first : piece.end].sum())
        world.count("modelled lattices", n_modelled)
        return _piece(context, piece)

    costs = [np.where(of_part, 1.0, ONLY_READ) for of_part in chosen]
    work = skeleton.PieceWork(make, MOST_READ, "lattices", costs)
    skeleton.run(parts, [len(of_part) for of_part in chosen], work, word, world)
    parts.finish(
        world,
        config=section.model_dump(mode="json"),
        reading=reading,
        runs=attributes["runs"],
        space_group=attributes["space_group"],
        detectors=attributes["detectors"],
        rungs=list(RUNGS),
        pictured=ladder.PICTURED,
        n_modelled=int(sum(map(np.sum, chosen))),
    )


def _read_all(parts: list[store.Part[Annulus]], cells: Path, world: World) -> dict[str, float]:
    """Read the lattices of all parts one by one, as rung 00 asks. Collective.

    Returns how many could be read (with light and finite pixels), of how many that are accepted,
    and by how much memory grew after the first part of a rank.
    """
    readable: dict[int, list[tuple[int, int]]] = {}
    peaks = []
    start_time = time.process_time()
    for number in world.share(len(parts)):
        part = parts[number].read()
        readable[number] = [
            _identity(part.lattices, row)
            for row in range(len(part.lattices))
            if _is_readable(unpack(part, row))
        ]
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    of_parts = world.gather_blocks(readable)
    read = {identity for identities in of_parts for identity in identities}
    growth = _growth_percent(peaks)
    own_seconds = time.process_time() - start_time
    seconds = sum(world.gather(own_seconds))
    wanted = [Cells.lattices.shot_id, Cells.lattices.k, Cells.lattices.outcome]
    lattices = store.read(cells, Cells, wanted).lattices
    is_accepted = lattices.outcome == LatticeOutcome.ACCEPTED
    of_cells = lattices[is_accepted]
    accepted = set(zip(of_cells.shot_id.tolist(), of_cells.k.tolist(), strict=True))
    return {
        "n_read": len(read),
        "n_others": len(read - accepted),
        "n_accepted": int(is_accepted.sum()),
        "growth_percent": max(world.gather(growth)),
        "seconds_per_lattice": seconds / max(len(read), 1),
    }


def _growth_percent(peaks: list[int]) -> float:
    """Return how far the peak memory of a rank grew from its first part to its last, %."""
    if not peaks:
        return 0.0
    return 100.0 * (peaks[-1] / peaks[0] - 1.0)


def _identity(lattices: LatticeIdentity, row: int) -> tuple[int, int]:
    """Return shot_id and k of a lattice."""
    return int(lattices.shot_id[row]), int(lattices.k[row])


def _is_readable(lattice: PackedLattice) -> bool:
    """Whether a lattice has light, and numbers in all pixels that count."""
    has_light = lattice.spectrum.photons.sum() > 0
    boxes = lattice.boxes
    return bool(has_light and np.isfinite(boxes.photons[boxes.valid]).all())


def _choose(
    annulus: Path, parts: list[store.Part[Annulus]], n_lattices: int | None
) -> tuple[list[list[int]], list[np.ndarray]]:
    """Return for each part shot_id and k of its lattices, and which of these are modelled,
    (lattice,) bool.

    They are `n_lattices` that have shoeboxes, the first of each part, as many of one as of the
    other, so that all ranks have work; or all where it is None. What a part lacks is taken from the
    next. Only parts that are to give lattices are opened.
    """
    ids: list[list[int]] = []
    chosen: list[np.ndarray] = []
    n_missing = 0.0
    wanted = [Annulus.lattices.shot_id, Annulus.lattices.k]
    lattices = store.read(annulus, Annulus, wanted).lattices
    for number, part in enumerate(parts):
        rows = part.rows("lattices")
        identities = [_identity(lattices, row) for row in range(rows.start, rows.stop)]
        ids.append([number for identity in identities for number in identity])
        has_boxes = np.zeros(len(identities), dtype=bool)
        n_of_part = n_missing + _share_of(number, len(parts), n_lattices)
        if n_of_part > 0:
            has_boxes[part.read([Annulus.reflections.lattice]).reflections.lattice] = True
        chosen.append(has_boxes & (np.cumsum(has_boxes) <= n_of_part))
        n_missing = n_of_part - np.count_nonzero(chosen[-1])
    return ids, chosen


def _share_of(part: int, n_parts: int, n_lattices: int | None) -> float:
    """Return how many of `n_lattices` a part is to give; None = as many as it has."""
    if n_lattices is None:
        return np.inf
    n_each, n_more = divmod(n_lattices, n_parts)
    return n_each + (part < n_more)


def _piece(context: Context, piece: Piece) -> Ladder:
    """Return some lattices of one block."""
    annulus = context.parts[piece.block].read()
    lattices = annulus.lattices
    of_lattices = []
    for row in range(piece.first, piece.end):
        lattice = unpack(annulus, row)
        run = lattices.run[row]
        shot_id = lattices.shot_id[row]
        k = lattices.k[row]
        own = Ladder()
        if context.chosen[piece.block][row]:
            turn = _turn(context.config, int(shot_id), int(k))
            turned = lattice._replace(A=turn @ lattice.A)
            try:
                own = _model(context.config, turned, context.models[run])
            except Unsolvable as error:
                words = "shot %016x lattice %d has no models: %s"
                context.log.warning(words, shot_id, k, error)
        identity = {"run": run, "shot_id": shot_id, "k": k}
        counts = _count_flagged(lattice, context.section)
        own.lattices = Ladder.lattices.from_rows([identity | counts])
        of_lattices.append(own)
    return Ladder.joined(of_lattices)


def _count_flagged(lattice: PackedLattice, section: dict[str, Any]) -> dict[str, int]:
    """Return the number of flagged shoeboxes, counted in two ways as rung 1 asks.

    section: the one that the annulus was made with.
    """
    reflections = lattice.reflections
    limits = {name: section[name] for name in ("d_min", "d_max")}
    columns = (reflections.d, _strength(reflections), reflections.flags)
    is_flagged = shoeboxes.chosen(*columns, **limits, min_i_over_sigma=ladder.STRONG)
    return {
        "n_flagged": int(is_flagged.sum()),
        "n_counted": ladder.plain_count(*columns, **limits),
    }


def _strength(reflections: Reflections) -> np.ndarray:
    """Return I/σ of reflections."""
    return i_over_sigma(reflections.intensity, reflections.sigma)


def _predicted(lattice: PackedLattice) -> np.ndarray:
    """Return the predicted centroids (box, 2), px."""
    return np.stack([lattice.reflections.fast, lattice.reflections.slow], axis=1)


def _distances(lattice: PackedLattice, model: RunModel, centroids: np.ndarray) -> dict[str, Any]:
    """Return the sums over observed reflections of squared distances to the centroids (box, 2), px:
    radial and transverse, mm².
    """
    reflections = lattice.reflections
    observed = np.stack([reflections.fast_obs, reflections.slow_obs], axis=1)
    distances = ladder.away_mm(
        centroids, observed.astype(np.float64), reflections.panel, model.detector
    )
    distances = distances[np.isfinite(reflections.fast_obs)]
    radial, transverse = (distances**2).sum(axis=0)
    return {"n": len(distances), "radial": radial, "transverse": transverse}


def _sums_of(z: np.ndarray, published: np.ndarray) -> dict[str, Any]:
    """Return sums of deviations (pixel,) and of their squares, by both definitions."""
    return {
        "n_pixels": len(z),
        "z": [z.sum(), z @ z],
        "z_published": [published.sum(), published @ published],
    }


def _model(config: LadderConfig, lattice: PackedLattice, model: RunModel) -> Ladder:
    """Return the rungs with a model and the pixels of a sample, without the lattice.

    Raises Unsolvable for a lattice without a solution.
    """
    noise = build.noise(model.recording)
    start = start_of(lattice, _domains(config, lattice), model)
    data, steps = ladder.run_rungs(start, model.space_group, lattice.boxes, noise)
    rungs = []
    for name, step in steps.items():
        if name == "1":
            centroids = _predicted(lattice)
        else:
            centroids = ladder.centroids(step, data, lattice.boxes)
        row = {
            "lattice": 0,
            "rung": list(RUNGS).index(name),
            **_distances(lattice, model, centroids),
            **_sums_of(*ladder.deviations(step, data, noise)),
            "seconds": step.seconds,
        }
        rungs.append(row)
    is_sound = lattice.reflections.flags & ReflectionFlag.FAILED == 0
    strength = np.where(is_sound, _strength(lattice.reflections), -np.inf)
    is_flagged = strength >= ladder.STRONG
    compared = {
        "lattice": 0,
        "n_spots": is_flagged.sum(),
        "n_fell": ladder.falls(steps["1"], steps["2"], data, noise)[is_flagged].sum(),
        "planes": ladder.planes_apart(steps["3"].planes, steps["2"].planes),
        "pixels": ladder.pixels_apart(steps["3B"].bragg, steps["3A"].bragg),
    }
    samples, pixels = _sample(lattice, data, steps, int(strength.argmax()))
    return Ladder(
        rungs=Ladder.rungs.from_rows(rungs),
        compared=Ladder.compared.from_rows([compared]),
        samples=samples,
        pixels=pixels,
    )


def _turn(config: LadderConfig, shot_id: int, k: int) -> np.ndarray:
    """Return a rotation (3, 3) of `misset_deg` about an axis of the lattice's own."""
    rng = np.random.default_rng([config.seed, shot_id, k, TURN])
    axis = rng.standard_normal(3)
    vector = config.ladder.misset_deg * DEG * axis / np.linalg.norm(axis)
    return rotation.from_vector(vector)


def _domains(config: LadderConfig, lattice: PackedLattice) -> Mosaic:
    """Return the domains of a lattice's model: the same draw for every lattice, scaled to its
    mosaic spread and centred on its mean.
    """
    rng = np.random.default_rng([config.seed, 0, DRAW])
    drawn = mosaic.domain_rotations(rng, config.ladder.n_domains, lattice.eta_rad)
    return mosaic.domains(drawn @ rotation.mean(drawn).T)


def _sample(
    lattice: PackedLattice, data: solve.Data, steps: dict[str, ladder.Step], box: int
) -> tuple[Samples, Pixels]:
    """Return data and models in one shoebox."""
    boxes = lattice.boxes
    valid = boxes.valid[boxes.of_box(box)]
    of_box = slice(data.start[box], data.start[box + 1])
    photons = np.full(len(valid), np.nan)
    photons[valid] = data.photons[of_box]
    models = [steps[name].model[of_box] for name in ladder.PICTURED]
    model = np.zeros((len(valid), len(models)))
    model[valid] = np.stack(models, axis=1)
    row = {"lattice": 0, "hkl": boxes.hkl[box], "bbox": boxes.bbox[box], "first_pixel": 0}
    return Samples.from_rows([row]), Pixels(photons=photons, model=model)
