"""stage1: every accepted lattice refined against its pixels. Writes stage1.h5 with its parts, and
stage1.csv.

A piece of a part is at most `block_lattices` lattices.
"""

import time
from collections.abc import Iterator
from logging import Logger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow.analysis.pixels import lattice_fit
from spreadflow.analysis.pixels.centroid_distances import centroid_distances
from spreadflow.config import Stage1Config, Stage1Section
from spreadflow.errors import FileError, RefinedOutcome, StageWarning
from spreadflow.io import shoebox_blocks, store
from spreadflow.io.mosaic import mosaic_of_lattices
from spreadflow.io.pieces import Piece
from spreadflow.io.shoebox_blocks import ShoeboxBlock
from spreadflow.log import logger, warn
from spreadflow.models import Detector, MosaicOfLattice
from spreadflow.parallel import World
from spreadflow.physics import symmetry, unit_cell
from spreadflow.products import SHOEBOXES, Annulus, Stage1
from spreadflow.products.stage1 import Lattices
from spreadflow.recipes import lattice_rows
from spreadflow.recipes.lattice import (
    FITTED,
    RunModel,
    likelier,
    refine_lattice,
    unknowns_of,
    unpack,
)
from spreadflow.stages import blocks as skeleton
from spreadflow.stages.pixel_models import inputs_of, read_models, sections_of

LATTICES_OF_PART = 256
"""Lattices of a part."""

N_SAMPLES = 8
"""Shoeboxes of the first lattice of a block whose pixels are kept, for pictures."""

MOST_OF_SPOTS = 0.5
"""Share of lattices that may keep orientation and cell of their spots without a warning."""

JUDGED = (
    Stage1.lattices.outcome,
    Stage1.lattices.run,
    Stage1.lattices.held_out_gain,
    Stage1.reflections.lattice,
    Stage1.reflections.panel,
    Stage1.reflections.fast,
    Stage1.reflections.slow,
    Stage1.reflections.fast_before,
    Stage1.reflections.slow_before,
    Stage1.reflections.fast_obs,
    Stage1.reflections.slow_obs,
    Stage1.reflections.fast_floor,
    Stage1.reflections.slow_floor,
)
"""Columns from which warnings are taken."""

CSV_FIGURES = (
    "loss_before",
    "loss_after",
    "held_out_gain",
    "sigma_z",
    "n_evaluations",
    "n_boxes",
    "n_pixels",
    "seconds",
)
"""Columns of `lattices` that stage1.csv has as they are."""


class Context(NamedTuple):
    """What all blocks share."""

    section: Stage1Section
    shoeboxes: Path
    models: list[RunModel]
    """of each run; none where every block is finished"""
    mosaic_of: MosaicOfLattice
    unknowns: list[str]
    log: Logger


def run(
    config: Stage1Config,
    *,
    shoeboxes: Path,
    mosaic: Path | None = None,
    out: Path,
    world: World,
    word: str = "stage1",
) -> None:
    """Write <word>.h5 with its parts, and <word>.csv.

    shoeboxes: product of `annulus` or `wide`, as `stage1.range` says; mosaic: product of `mosaic`
    where the mosaicity was learned.
    """
    section = config.stage1
    log = logger(word, world)
    attributes = store.attributes(shoeboxes, SHOEBOXES[section.range])
    blocks = shoebox_blocks.blocks_of(shoeboxes, section.range, section.block_lattices)
    mosaic_of = mosaic_of_lattices(section, mosaic)
    sections = sections_of(config, section)
    inputs = inputs_of(config, [shoeboxes, section.domains, mosaic])
    key = store.digest(sections, inputs)
    groups = _groups(blocks)
    parts = store.Parts(out, Stage1, key, [_ids(group) for group in groups])
    models = []
    if not parts.are_done(world):
        models = read_models(config, shoeboxes, section.range, word, log)
    context = Context(
        section=section,
        shoeboxes=shoeboxes,
        models=models,
        mosaic_of=mosaic_of,
        unknowns=_unknowns(section, attributes["space_group"], blocks, mosaic_of),
        log=log,
    )

    def make(piece: Piece) -> Stage1:
        return _piece(context, groups[piece.block], piece)

    work = skeleton.PieceWork(make, section.block_lattices, "lattices")
    n_lattices = [sum(len(block.lattices) for block in group) for group in groups]
    skeleton.run(parts, n_lattices, work, word, world)
    outcomes = skeleton.outcomes(parts, Stage1.lattices.outcome, RefinedOutcome, world)
    log.info("%d lattices: %s", sum(outcomes.values()), skeleton.in_words(outcomes))
    if not outcomes["refined"] + outcomes["not_converged"]:
        found = f"none: {skeleton.in_words(outcomes)}"
        todo = "Look at the log and at reindex.png; mind stage1.range."
        raise FileError(shoeboxes, "lattices that can be fitted", found, todo)
    _write_csv(parts, attributes["runs"], context.unknowns, world)
    detectors = [Detector.from_json(detector) for detector in attributes["detectors"]]
    warnings = _warnings(_sums(parts, detectors, world))
    parts.finish(
        world,
        warnings=warn(log, warnings),
        config=section.model_dump(mode="json"),
        unknowns=context.unknowns,
        outcomes=outcomes,
        **{name: attributes[name] for name in ("runs", "space_group", "detectors")},
    )


def _groups(blocks: list[ShoeboxBlock]) -> list[list[ShoeboxBlock]]:
    """Return the blocks of each part: those that follow each other and together have
    `LATTICES_OF_PART` lattices or a few more.
    """
    groups: list[list[ShoeboxBlock]] = []
    n_lattices = LATTICES_OF_PART
    for block in blocks:
        if n_lattices >= LATTICES_OF_PART:
            groups.append([])
            n_lattices = 0
        groups[-1].append(block)
        n_lattices += len(block.lattices)
    return groups


def _ids(group: list[ShoeboxBlock]) -> list[int]:
    """Return shot_id and k of each lattice of a part."""
    return [number for block in group for number in block.ids]


def _unknowns(
    section: Stage1Section,
    space_group: str,
    blocks: list[ShoeboxBlock],
    mosaic_of: MosaicOfLattice,
) -> list[str]:
    """Return the names of the unknowns that any lattice has. η is not among them where the
    mosaicity is given or learned.
    """
    n_strains = len(symmetry.reciprocal_metric_basis(space_group))
    of_lattices = [
        unknowns_of(section, mosaic_of(*identity), n_strains)
        for block in blocks
        for identity in block.identities()
    ]
    return lattice_fit.names(max(of_lattices, key=len, default={}))


def _piece(context: Context, group: list[ShoeboxBlock], piece: Piece) -> Stage1:
    """Return some lattices of a part, refined. group: the blocks of the part."""
    of_lattices = []
    for block, rows in _in_piece(group, piece):
        part = block.read()
        for row in rows:
            n_samples = N_SAMPLES if row == block.lattices[0] else 0
            of_lattices.append(_refined(context, part, row, n_samples))
    return Stage1.joined(of_lattices)


def _in_piece(group: list[ShoeboxBlock], piece: Piece) -> Iterator[tuple[ShoeboxBlock, range]]:
    """Yield each block of a part that has lattices of a piece, and their rows in the shoeboxes."""
    n_before = 0
    for block in group:
        first, end = (max(number - n_before, 0) for number in (piece.first, piece.end))
        rows = block.lattices[first:end]
        if rows:
            yield block, rows
        n_before += len(block.lattices)


def _refined(context: Context, part: Annulus, row_number: int, n_samples: int) -> Stage1:
    """Return a lattice of a part of the shoeboxes, refined. n_samples: shoeboxes whose pixels are
    kept.
    """
    section = context.section
    start_time = time.process_time()
    run = part.lattices.run[row_number]
    shot_id = part.lattices.shot_id[row_number]
    k = part.lattices.k[row_number]
    lattice = unpack(part, row_number)
    mosaic = context.mosaic_of(int(shot_id), int(k))
    of_pixels = refine_lattice(lattice, mosaic, context.models[run], section)
    fit = likelier(of_pixels, section)
    if fit.why:
        words = "shot %016x lattice %d: %s (%s)"
        context.log.warning(words, shot_id, k, fit.outcome.name, fit.why)
    row: dict[str, Any] = {"run": run, "shot_id": shot_id, "k": k, "outcome": fit.outcome}
    refined = Stage1()
    if fit.outcome in FITTED:
        row |= lattice_rows.lattice_row(fit, context.unknowns, section.uncertainty)
        refined.reflections = lattice_rows.reflection_rows(lattice, fit)
        of_samples = lattice_rows.sample_rows(lattice, fit, n_samples)
        refined.samples, refined.sample_pixels = of_samples
    row["seconds"] = time.process_time() - start_time
    refined.lattices = Stage1.lattices.blank(unknown=len(context.unknowns))
    for name, value in row.items():
        refined.lattices.put(name, [value])
    return refined


class _Sums(NamedTuple):
    """Sums over all lattices."""

    n_compared: int
    """lattices whose orientation by pixels was compared with that by spots"""
    n_of_spots: int
    """those of them that keep that of the spots"""
    n: int
    """observed centroids"""
    before_mm2: float
    """squares of their radial distances from those that spots predict"""
    after_mm2: float
    """and from those of the model"""


def _sums(parts: store.Parts[Stage1], detectors: list[Detector], world: World) -> _Sums:
    """Return the sums over all blocks, made now or in an earlier run. Collective."""
    own = {}
    for block in range(world.rank, len(parts.keys), world.size):
        part = parts.read(block, JUDGED)
        gain = part.lattices.held_out_gain
        distances = centroid_distances(part, detectors)
        radial_mm = {name: px[:, 0] * distances.pixel_mm for name, px in distances.px.items()}
        own[block] = [
            np.isfinite(gain).sum(),
            (gain <= 0).sum(),
            len(distances.rows),
            (radial_mm["before"] ** 2).sum(),
            (radial_mm["after"] ** 2).sum(),
        ]
    totals = np.sum(world.gather_blocks(own), axis=0)
    n_compared, n_of_spots, n = (int(total) for total in totals[:3])
    return _Sums(n_compared, n_of_spots, n, *map(float, totals[3:]))


def _warnings(sums: _Sums) -> list[StageWarning]:
    """Return what a person must know before they trust the lattices."""
    warnings = []
    if sums.n_of_spots > MOST_OF_SPOTS * sums.n_compared:
        warnings.append(
            StageWarning(
                "pixels do not tell orientation and cell better than spots: those of the spots are "
                "kept",
                f"{sums.n_of_spots} of {sums.n_compared} lattices",
                f"{MOST_OF_SPOTS:.0%} at most",
                "Give shoeboxes more resolution (stage1.range: wide), or a model of the crystal "
                "that is nearer (stage1.structure_factors, stage1.mosaicity: learned).",
            )
        )
    if sums.after_mm2 > sums.before_mm2:
        before, after = np.sqrt(np.array([sums.before_mm2, sums.after_mm2]) / sums.n)
        warnings.append(
            StageWarning(
                "centroids of modelled spots are farther from the observed ones, along the radius, "
                "than those that spots predict",
                f"{after:.4f} mm",
                f"{before:.4f} mm",
                "The mosaicity of the model is not that of the crystals: learn it "
                "(stage1.mosaicity: learned). Orientations by pixels explain pixels, and need not "
                "be the mean of the domains.",
            )
        )
    return warnings


def _write_csv(
    parts: store.Parts[Stage1], runs: list[str], unknowns: list[str], world: World
) -> None:
    """Write a line for each lattice. Collective."""
    lattices = skeleton.all_rows(parts, Stage1.lattices, world, is_for_first=True)
    path = parts.path.with_suffix(".csv")
    world.once(lambda: store.write_csv(path, _csv_columns(lattices, runs, unknowns)))


def _csv_columns(lattices: Lattices, runs: list[str], unknowns: list[str]) -> dict:
    """Return the columns of stage1.csv. Angles are in degrees; each unknown has a σ from Fisher's
    information and one from the sandwich.
    """
    columns: dict = {
        "run": [runs[run] for run in lattices.run],
        "shot_id": [f"{shot_id:016x}" for shot_id in lattices.shot_id],
        "k": lattices.k,
        "outcome": [RefinedOutcome(number).name.lower() for number in lattices.outcome],
    }
    names = ("a", "b", "c", "alpha_deg", "beta_deg", "gamma_deg")
    cells = unit_cell.degrees(lattices.cell)
    columns |= dict(zip(names, cells.T, strict=True))
    for place, element in enumerate(lattices.A.reshape(-1, 9).T):
        row, column = divmod(place, 3)
        columns[f"A{row + 1}{column + 1}"] = element
    for axis, n_cells in zip("abc", lattices.n_cells.T, strict=True):
        columns[f"n_cells_{axis}"] = n_cells
    columns["eta_deg"] = np.rad2deg(lattices.eta_rad)
    for axis, eta_rad in zip("xyz", lattices.eta_axes_rad.T, strict=True):
        columns[f"eta_{axis}_deg"] = np.rad2deg(eta_rad)
    columns["scale"] = lattices.scale
    by_name = lattices.as_dict()
    for kind in ("values", "sigma_fisher", "sigma_sandwich"):
        for name, values in zip(unknowns, by_name[kind].T, strict=True):
            columns[f"{kind}.{name}"] = values
    return columns | {name: by_name[name] for name in CSV_FIGURES}
