"""mosaic: how the mosaic domains of lattices are turned, learned from their pixels. Writes mosaic.h5 with its parts.

A distribution that lattices share is learned by all ranks together: one part. Where each lattice has its own, a block
is at most `block_lattices` lattices of one part of the shoeboxes.
"""

import time
from collections.abc import Sequence
from logging import Logger
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.pixels import lattice_fit, mosaic_learning
from spreadflow.config import MosaicConfig, PixelsSection, Stage1Section
from spreadflow.errors import LearnedOutcome
from spreadflow.io import schema, store
from spreadflow.log import Progress, logger
from spreadflow.parallel import World
from spreadflow.physics import rotation
from spreadflow.physics.mosaic import continuous
from spreadflow.recipes import factors
from spreadflow.recipes import lattice as pixelfit
from spreadflow.stages import stage1

FINEST = {"shared": mosaic_learning.FINE, "per_lattice": 1.0}
"""step of the last grid, in angular widths of a domain: one lattice has fewer photons to tell nodes apart"""
HOLD_OUT = 120
"""purpose of the random streams that say what is held out: none of the simulation's"""


NOT_FITTED = {"A": np.full((3, 3), np.nan), "set": -1}
"""of a lattice that taught nothing"""


class ShoeboxSource(NamedTuple):
    """The packed shoeboxes, and what their lattices share."""

    path: Path
    kind: str
    """annulus or wide"""
    given: list[pixelfit.RunModel]


class Begun(NamedTuple):
    """A lattice with its continuous fit; `of` is None where there is none."""

    row: dict
    of: lattice_fit.Problem | None
    seed: tuple[int, ...]


def run(
    config: MosaicConfig, *, shoeboxes: Path, out: Path, world: World, word: str = "mosaic"
) -> None:
    """Write <word>.h5 with its parts. shoeboxes: the packed pixels, of `annulus` or `wide` as the section says."""
    section = config.mosaic
    log = logger(word, world)
    kind = section.shoeboxes
    is_shared = section.scope == "shared"
    told = store.attributes(shoeboxes, kind)
    every = stage1.blocks_of(shoeboxes, 1, kind)
    blocks = every if is_shared else stage1.blocks_of(shoeboxes, section.block_lattices, kind)
    files = [shoeboxes, *factors.files(config.structure_factors)]
    inputs = [config.seed, config.beam.size_mm, *map(store.identity, files)]
    sections = [part.model_dump(mode="json") for part in (section, config.structure_factors)]
    ids = [block.ids for block in blocks]
    ids = [[n for block in ids for n in block]] if is_shared else ids
    parts = store.Parts(out, word, store.digest(sections, inputs), ids)
    if not all(map(parts.done, range(len(ids)))):
        source = ShoeboxSource(
            shoeboxes, kind, stage1.given_of(config, shoeboxes, told, word, kind)
        )
        work = _together if is_shared else _apart
        work(config, source, blocks, parts, world, log)
    outcomes: dict[str, int] = {}

    def tell() -> None:
        lattices = [parts.read(n, ["lattices/outcome"]) for n in range(len(ids))]
        found = store.joined(word, ["lattices/outcome"], lattices)["lattices/outcome"]
        outcomes.update({end.name.lower(): int((found == end).sum()) for end in LearnedOutcome})
        log.info(
            "%d lattices: %s",
            len(found),
            ", ".join(f"{n} {end}" for end, n in outcomes.items() if n),
        )

    world.once(tell)
    also = {name: told[name] for name in ("runs", "space_group")} | {
        "d_min": told["config"]["d_min"]
    }
    parts.finish(
        world, config=section.model_dump(mode="json"), shoeboxes=kind, outcomes=outcomes, **also
    )


# ---------------------------------------------------------------- each lattice its own


def _apart(
    config: MosaicConfig,
    source: ShoeboxSource,
    blocks: list[stage1.Block],
    parts: store.Parts,
    world: World,
    log: Logger,
) -> None:
    """All parts, shared among the ranks."""
    with Progress("mosaic", len(blocks), world) as progress:

        def make(n: int) -> dict:
            progress.at(n)
            block = blocks[n]
            pieces = []
            columns = store.read_part(source.path, source.kind, block.part, block.key)
            for i in block.lattices:
                pieces.append(store.piece("mosaic", _alone(config, columns, i, source, log)))
            return store.joined("mosaic", schema.FILES["mosaic"], pieces)

        parts.each(world, make)
        progress.at(len(blocks))


def _alone(
    config: MosaicConfig, columns: dict, i: int, source: ShoeboxSource, log: Logger
) -> dict[str, dict]:
    """Tables of one lattice."""
    began = time.process_time()
    begun = _begin(config, columns, i, source, log)
    tables = {}
    row = begun.row
    if begun.of is not None:
        try:
            learned = _learned(config, [begun], float(begun.of.start.crystal.eta_rad))
            tables = _tables(learned, 0)
            row |= _end(learned) | {"A": learned.problems[0].start.crystal.A}
        except (np.linalg.LinAlgError, ArithmeticError, ValueError) as error:
            log.warning("shot %016x lattice %d: not learned (%s)", row["shot_id"], row["k"], error)
    row["seconds"] = time.process_time() - began
    return tables | {"lattices": _columns([row])}


# ---------------------------------------------------------------- one for all


def _together(
    config: MosaicConfig,
    source: ShoeboxSource,
    blocks: list[stage1.Block],
    parts: store.Parts,
    world: World,
    log: Logger,
) -> None:
    """The only part. Each rank keeps the lattices it began with; sums are over all, in the order of lattices."""
    began = time.process_time()
    chosen = _evenly(len(blocks), config.mosaic.max_lattices)
    mine: dict[int, Begun] = {}
    with Progress("mosaic", len(chosen), world, "lattices") as progress:
        for n in world.share(len(chosen)):
            progress.at(n)
            block = blocks[chosen[n]]
            columns = store.read_part(source.path, source.kind, block.part, block.key)
            mine[n] = _begin(config, columns, block.lattices[0], source, log)
        progress.at(len(chosen))
    fitted = {n: begun for n, begun in sorted(mine.items()) if begun.of is not None}
    etas = world.gather_blocks(
        {n: float(b.of.start.crystal.eta_rad) for n, b in fitted.items() if b.of}
    )
    tables = {}
    end = {}
    ends = {}
    if etas:

        def add(arrays):
            return world.sum(dict(zip(fitted, arrays, strict=True)), len(chosen))

        learned = _learned(config, list(fitted.values()), float(np.median(etas)), add)
        tables = _tables(learned, -1)
        end = _end(learned)
        ends = {
            n: {**end, "A": of.start.crystal.A}
            for n, of in zip(fitted, learned.problems, strict=True)
        }
    seconds = {"seconds": sum(world.gather(time.process_time() - began)) / len(chosen)}
    told = world.gather_blocks(
        {n: begun.row | ends.get(n, {}) | seconds for n, begun in mine.items()}
    )
    world.once(
        lambda: parts.write(
            0, _whole(source, blocks, dict(zip(chosen, told, strict=True)), end, tables)
        )
    )


def _evenly(n: int, most: int) -> list[int]:
    """At most so many of n numbers, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int)).tolist()


def _whole(
    source: ShoeboxSource,
    blocks: list[stage1.Block],
    rows: dict[int, dict],
    end: dict,
    tables: dict[str, dict],
) -> dict[str, np.ndarray]:
    """All columns: a set that is used is every lattice's."""
    names = [f"lattices/{name}" for name in ("run", "shot_id", "k")]
    told = store.read(source.path, source.kind, names)
    every = []
    for n in range(len(blocks)):
        row = {name.split("/")[1]: told[name][n] for name in names}
        row |= NOT_FITTED | {"outcome": LearnedOutcome.LEFT_OUT, "seconds": 0.0} | rows.get(n, {})
        every.append(row | {"set": end.get("set", -1)})
    return store.joined(
        "mosaic",
        schema.FILES["mosaic"],
        [store.piece("mosaic", tables | {"lattices": _columns(every)})],
    )


# ---------------------------------------------------------------- lattices and tables


def _begin(
    config: MosaicConfig, columns: dict, i: int, source: ShoeboxSource, log: Logger
) -> Begun:
    """Lattice i of a part, fitted with the continuous distribution."""
    row = {name: columns[f"lattices/{name}"][i] for name in ("run", "shot_id", "k")}
    ended = pixelfit.refine(
        pixelfit.unpack(columns, i), continuous(), source.given[row["run"]], _fit(config)
    )
    row |= NOT_FITTED | {"outcome": LearnedOutcome.LOST}
    seed = (config.seed, HOLD_OUT, int(row["shot_id"]), int(row["k"]))
    if ended.outcome not in stage1.FITTED or ended.of is None or ended.refined is None:
        log.warning(
            "shot %016x lattice %d: %s (%s)",
            row["shot_id"],
            row["k"],
            ended.outcome.name,
            ended.why,
        )
        return Begun(row, None, seed)
    return Begun(row, lattice_fit.moved(ended.of, ended.refined.parameters), seed)


def _fit(config: MosaicConfig) -> Stage1Section:
    """How lattices are fitted before anything is learned from them."""
    return Stage1Section(**config.mosaic.model_dump(include=set(PixelsSection.model_fields)))


def _learned(
    config: MosaicConfig,
    begun: Sequence[Begun],
    eta_rad: float,
    add: mosaic_learning.Add = mosaic_learning.sum_up,
) -> mosaic_learning.LearnedMosaic:
    """From lattices with fits. Collective where `add` is."""
    return mosaic_learning.learn(
        [b.of for b in begun if b.of is not None],
        eta_rad=eta_rad,
        seeds=[b.seed for b in begun],
        fine=FINEST[config.mosaic.scope],
        n_axes=_fit(config).n_cells_axes,
        add=add,
    )


def _end(learned: mosaic_learning.LearnedMosaic) -> dict:
    """What becomes of the lattices that taught; `set`: of the part's."""
    if learned.is_better:
        return {"outcome": LearnedOutcome.LEARNED, "set": 0}
    return {"outcome": LearnedOutcome.CONTINUOUS, "set": -1}


def _tables(
    learned: mosaic_learning.LearnedMosaic, lattice: int
) -> dict[str, dict[str, np.ndarray]]:
    """What was learned, as the first rows of the tables sets, rounds and components."""
    mosaic = learned.mosaic
    is_better = learned.is_better
    of_set = {
        "lattice": lattice,
        "eta_rad": mosaic.eta_rad,
        "held_out_continuous": learned.continuous,
        "held_out": learned.held_out,
        "is_better": is_better,
    }
    kept = len(mosaic.share) if is_better else 0
    components = {
        "set": np.zeros(kept, dtype=int),
        "rotation_rad": rotation.vector(mosaic.rotations[:kept]),
    }
    components |= {"width": mosaic.width[:kept], "share": mosaic.share[:kept]}
    rounds = _columns([{"set": 0, **r._asdict()} for r in learned.rounds])
    return {"sets": _columns([of_set]), "rounds": rounds, "components": components}


def _columns(rows: list[dict]) -> dict[str, np.ndarray]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
