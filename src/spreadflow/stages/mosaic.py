"""mosaic: how the mosaic domains of lattices are turned, learned from their pixels. Writes
mosaic.h5 with its parts.

A distribution that lattices share is learned by all ranks together: one part, and each rank keeps
the lattices that it fitted. Where each lattice has its own, a block is at most `block_lattices`
lattices of one part of the shoeboxes.
"""

import time
from collections.abc import Sequence
from logging import Logger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow.analysis.least_squares import Unsolvable
from spreadflow.analysis.pixels import lattice_fit, mosaic_learning
from spreadflow.config import MosaicConfig, PixelsSection, Stage1Section
from spreadflow.errors import LearnedOutcome
from spreadflow.io import shoebox_blocks, store
from spreadflow.io.pieces import Piece
from spreadflow.io.shoebox_blocks import ShoeboxBlock
from spreadflow.log import Progress, logger
from spreadflow.parallel import World
from spreadflow.physics import rotation
from spreadflow.physics.mosaic import continuous
from spreadflow.products import SHOEBOXES, Annulus, Mosaic
from spreadflow.recipes.lattice import FITTED, RunModel, refine_lattice, unpack
from spreadflow.stages import blocks as skeleton
from spreadflow.stages.pixel_models import inputs_of, read_models, sections_of

FINEST_STEPS = {"shared": mosaic_learning.FINE, "per_lattice": 1.0}
"""Step of the last grid, in angular widths of a domain: coarser for one lattice, which has fewer
photons to tell nodes apart.
"""

HOLD_OUT = 120
"""Number of the purpose of the random streams that choose what is held out; the simulation uses
none of this number.
"""

NOT_FITTED = {"A": np.full((3, 3), np.nan), "set": -1}
"""Columns of a lattice from which nothing was learned."""

Row = dict[str, Any]
"""Column → value, of one lattice: a row of `lattices`."""


class Context(NamedTuple):
    """What all lattices share."""

    config: MosaicConfig
    shoeboxes: Path
    models: list[RunModel]
    """of each run"""
    blocks: list[ShoeboxBlock]
    log: Logger


class Pupil(NamedTuple):
    """A lattice with its continuous fit, from which mosaicity is learned."""

    row: Row
    problem: lattice_fit.Problem | None
    """None where the lattice could not be fitted"""
    seed: tuple[int, ...]
    """of the random stream that chooses what is held out"""


def run(
    config: MosaicConfig, *, shoeboxes: Path, out: Path, world: World, word: str = "mosaic"
) -> None:
    """Write <word>.h5 with its parts. shoeboxes: product of `annulus` or `wide`, as the section
    says.
    """
    section = config.mosaic
    log = logger(word, world)
    kind = section.shoeboxes
    is_shared = section.scope == "shared"
    attributes = store.attributes(shoeboxes, SHOEBOXES[kind])
    size = 1 if is_shared else section.block_lattices
    blocks = shoebox_blocks.blocks_of(shoeboxes, kind, size)
    sections = sections_of(config, section)
    inputs = inputs_of(config, [shoeboxes])
    ids = [block.ids for block in blocks]
    if is_shared:
        ids = [[number for block in blocks for number in block.ids]]
    parts = store.Parts(out, Mosaic, store.digest(sections, inputs), ids)
    if not parts.are_done(world):
        models = read_models(config, shoeboxes, kind, word, log)
        context = Context(config, shoeboxes, models, blocks, log)
        if is_shared:
            _learn_together(context, parts, world)
        else:

            def make(piece: Piece) -> Mosaic:
                return _learn_alone(context, piece)

            work = skeleton.PieceWork(make, size, "lattices")
            skeleton.run(parts, [len(block.lattices) for block in blocks], work, word, world)
    outcomes = skeleton.outcomes(parts, Mosaic.lattices.outcome, LearnedOutcome, world)
    log.info("%d lattices: %s", sum(outcomes.values()), skeleton.in_words(outcomes))
    parts.finish(
        world,
        config=section.model_dump(mode="json"),
        shoeboxes=kind,
        outcomes=outcomes,
        runs=attributes["runs"],
        space_group=attributes["space_group"],
        d_min=attributes["config"]["d_min"],
    )


# ---------------------------------------------------------------- each lattice its own


def _learn_alone(context: Context, piece: Piece) -> Mosaic:
    """Return some lattices of one block, each learned by itself."""
    block = context.blocks[piece.block]
    shoeboxes = block.read()
    rows = block.lattices[piece.first : piece.end]
    return Mosaic.joined([_learn_one(context, shoeboxes, row) for row in rows])


def _learn_one(context: Context, shoeboxes: Annulus, row_number: int) -> Mosaic:
    """Return one lattice of a part of the shoeboxes, and its set."""
    start_time = time.process_time()
    pupil = _pupil(context, shoeboxes, row_number)
    row = pupil.row
    learned = Mosaic()
    if pupil.problem is not None:
        try:
            eta_rad = float(pupil.problem.start.crystal.eta_rad)
            result = _learn(context.config, [pupil], eta_rad)
            learned = _learned(result, 0)
            start = result.problems[0].start
            row |= _outcome(result) | {"A": start.crystal.A}
        except Unsolvable as error:
            words = "shot %016x lattice %d: not learned (%s)"
            context.log.warning(words, row["shot_id"], row["k"], error)
    row["seconds"] = time.process_time() - start_time
    learned.lattices = Mosaic.lattices.from_rows([row])
    return learned


# ---------------------------------------------------------------- one for all


def _learn_together(context: Context, parts: store.Parts[Mosaic], world: World) -> None:
    """Make the only part. Each rank keeps the lattices that it fitted; sums are over all, in the
    order of lattices. Collective.
    """
    start_time = time.process_time()
    chosen = _evenly(len(context.blocks), context.config.mosaic.max_lattices)
    pupils = _pupils(context, chosen, world)
    fitted = {number: pupil for number, pupil in sorted(pupils.items()) if pupil.problem}
    own_etas_rad = {number: _eta_rad(pupil) for number, pupil in fitted.items()}
    etas_rad = world.gather_blocks(own_etas_rad)
    learned = Mosaic()
    outcome: Row = {}
    rows = {number: pupil.row for number, pupil in pupils.items()}
    if etas_rad:

        def add(arrays: Sequence[np.ndarray]) -> np.ndarray:
            return world.sum(dict(zip(fitted, arrays, strict=True)))

        eta_rad = float(np.median(etas_rad))
        result = _learn(context.config, list(fitted.values()), eta_rad, add)
        learned = _learned(result, -1)
        outcome = _outcome(result)
        for number, problem in zip(fitted, result.problems, strict=True):
            rows[number] |= {**outcome, "A": problem.start.crystal.A}
    own_seconds = time.process_time() - start_time
    seconds = sum(world.gather(own_seconds)) / len(chosen)
    all_rows = world.gather_blocks(rows)
    by_lattice = {
        lattice: row | {"seconds": seconds} for lattice, row in zip(chosen, all_rows, strict=True)
    }
    world.once(lambda: parts.write(0, _whole(context, by_lattice, outcome, learned)))


def _pupils(context: Context, chosen: list[int], world: World) -> dict[int, Pupil]:
    """Return this rank's share of the chosen lattices, fitted, by number among those chosen."""
    pupils: dict[int, Pupil] = {}
    with Progress("mosaic", len(chosen), world, "lattices") as progress:
        for number in world.share(len(chosen)):
            progress.at(number)
            block = context.blocks[chosen[number]]
            pupils[number] = _pupil(context, block.read(), block.lattices[0])
            world.count("lattices", 1)
        progress.at(len(chosen))
    return pupils


def _eta_rad(pupil: Pupil) -> float:
    """Return the mosaic spread of a lattice that was fitted."""
    assert pupil.problem is not None
    return float(pupil.problem.start.crystal.eta_rad)


def _evenly(n: int, n_chosen: int) -> list[int]:
    """Return at most `n_chosen` of n numbers, evenly spread."""
    places = np.linspace(0, n - 1, min(n, n_chosen))
    return np.unique(places.round().astype(int)).tolist()


def _whole(context: Context, rows: dict[int, Row], outcome: Row, learned: Mosaic) -> Mosaic:
    """Return the only part. A set that is used is that of every lattice.

    rows: by number of the lattice, those of the lattices that were chosen; outcome: of the set,
    empty where nothing was learned; learned: the set, without lattices.
    """
    product = SHOEBOXES[context.config.mosaic.shoeboxes]
    identity = [product.lattices.run, product.lattices.shot_id, product.lattices.k]
    identities = store.read(context.shoeboxes, product, identity).lattices.as_dict()
    lattices = []
    for number in range(len(context.blocks)):
        row: Row = {name: column[number] for name, column in identities.items()}
        row |= NOT_FITTED | {"outcome": LearnedOutcome.LEFT_OUT, "seconds": 0.0}
        row |= rows.get(number, {})
        row["set"] = outcome.get("set", -1)
        lattices.append(row)
    learned.lattices = Mosaic.lattices.from_rows(lattices)
    return learned


# ---------------------------------------------------------------- lattices and tables


def _pupil(context: Context, shoeboxes: Annulus, row_number: int) -> Pupil:
    """Return a lattice of a part, fitted with the continuous distribution."""
    config = context.config
    lattices = shoeboxes.lattices
    run = lattices.run[row_number]
    lattice = unpack(shoeboxes, row_number)
    fit = refine_lattice(lattice, continuous(), context.models[run], _fit_section(config))
    shot_id = lattices.shot_id[row_number]
    k = lattices.k[row_number]
    row = {"run": run, "shot_id": shot_id, "k": k, "outcome": LearnedOutcome.LOST} | NOT_FITTED
    seed = (config.seed, HOLD_OUT, int(shot_id), int(k))
    if fit.outcome not in FITTED or fit.problem is None or fit.refined is None:
        words = "shot %016x lattice %d: %s (%s)"
        context.log.warning(words, shot_id, k, fit.outcome.name, fit.why)
        return Pupil(row, None, seed)
    return Pupil(row, lattice_fit.moved(fit.problem, fit.refined.parameters), seed)


def _fit_section(config: MosaicConfig) -> Stage1Section:
    """Return the settings of the fits that precede the learning."""
    return Stage1Section(**config.mosaic.model_dump(include=set(PixelsSection.model_fields)))


def _learn(
    config: MosaicConfig,
    pupils: Sequence[Pupil],
    eta_rad: float,
    add: mosaic_learning.Add = mosaic_learning.sum_up,
) -> mosaic_learning.LearnedMosaic:
    """Learn from lattices with fits. Collective where `add` is."""
    return mosaic_learning.learn(
        [pupil.problem for pupil in pupils if pupil.problem is not None],
        eta_rad=eta_rad,
        seeds=[pupil.seed for pupil in pupils],
        fine=FINEST_STEPS[config.mosaic.scope],
        n_axes=_fit_section(config).n_cells_axes,
        add=add,
    )


def _outcome(result: mosaic_learning.LearnedMosaic) -> Row:
    """Return the outcome of the lattices that were learned from, and `set`, the number of their set
    in the part.
    """
    if result.is_better:
        return {"outcome": LearnedOutcome.LEARNED, "set": 0}
    return {"outcome": LearnedOutcome.CONTINUOUS, "set": -1}


def _learned(result: mosaic_learning.LearnedMosaic, lattice: int) -> Mosaic:
    """Return a learned mosaicity as the first set of a product without lattices.

    lattice: row of the lattice that the set is of, -1 where all share it.
    """
    mosaic = result.mosaic
    n_components = len(mosaic.share) if result.is_better else 0
    set_row = {
        "lattice": lattice,
        "eta_rad": mosaic.eta_rad,
        "held_out_continuous": result.continuous,
        "held_out": result.held_out,
        "is_better": result.is_better,
    }
    rounds = [{"set": 0, **one_round._asdict()} for one_round in result.rounds]
    components = Mosaic.components(
        set=np.zeros(n_components, dtype=int),
        rotation_rad=rotation.vector(mosaic.rotations[:n_components]),
        width=mosaic.width[:n_components],
        share=mosaic.share[:n_components],
    )
    return Mosaic(
        sets=Mosaic.sets.from_rows([set_row]),
        rounds=Mosaic.rounds.from_rows(rounds),
        components=components,
    )
