"""The cycles of `stage2`: lattices are refined against their pixels with the intensities of the
cycle before, and reduced to Gram matrices, block by block; then the intensities are refined from
these alone.

The Gram matrices of a cycle are the product `stage2.gram/<cycle>.h5`, so that a run that was killed
continues from the blocks that are finished.
"""

import time
from collections.abc import Iterator
from logging import Logger
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.analysis import identity_hash
from spreadflow.analysis.factors.solution import Restraint
from spreadflow.config import Stage2Config
from spreadflow.errors import FileError, RefinedOutcome, SpreadOutcome
from spreadflow.io import mtz, store
from spreadflow.io.factor_files import FactorFiles
from spreadflow.io.pieces import Piece
from spreadflow.io.shoebox_blocks import ShoeboxBlock
from spreadflow.models import MosaicOfLattice
from spreadflow.parallel import World
from spreadflow.products import Annulus, Gram, Merge, Stage1
from spreadflow.recipes import intensities, stage2, stage2_product
from spreadflow.recipes.gram import ExpandedLattice
from spreadflow.recipes.intensities import Reflections
from spreadflow.recipes.lattice import RunModel, Start, unpack
from spreadflow.recipes.stage2 import Intensities, OwnBatch
from spreadflow.stages import blocks as skeleton
from spreadflow.stages.expansions import (
    Expansion,
    LatticeRow,
    Starts,
    StartsOfBlock,
    expanded,
    starts_again,
    starts_from,
)
from spreadflow.stages.pixel_models import sections_of
from spreadflow.units import DEG

DIGITS = 4
"""Digits to which the intensities of an expansion are rounded: rounding errors of sums must not
change the key of a cycle.
"""


class Context(NamedTuple):
    """What all cycles share."""

    config: Stage2Config
    pack: Path
    blocks: list[ShoeboxBlock]
    models: list[RunModel]
    """of each run"""
    mosaic_of: MosaicOfLattice
    unknowns: list[str]
    """of the lattices of stage 1"""
    reflections: Reflections
    photons: np.ndarray
    """(channel,) of all pulses together"""
    files: FactorFiles
    merge: Path
    log: Logger
    world: World


class Cycle(NamedTuple):
    """A finished cycle."""

    parts: store.Parts[Gram]
    refined: Intensities
    figures: dict[str, float]
    """its row of the table `cycles`"""


class Reduction:
    """Sums over the ranks, and what they cost."""

    def __init__(self, world: World):
        self._world = world
        self.n_bytes = 0
        """that each rank has given to sums"""
        self.n_sums = 0

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """Return the sum of an array over the ranks. Collective."""
        self.n_bytes += array.nbytes
        self.n_sums += 1
        return self._world.total(array)


def alternated(
    context: Context, out: Path, inputs: list, starts: StartsOfBlock, reduced: Reduction
) -> list[Cycle]:
    """Refine lattices and intensities in turns, until the intensities rest, or lattices that were
    held out are no longer likelier.

    The key of a cycle's matrices is made of the key of the cycle before and of the intensities that
    they are expanded about.
    """
    config = context.config
    section = config.stage2
    reflections = context.reflections
    key = store.digest(sections_of(config, config.stage1), inputs)
    problem = stage2.Problem(
        reflections=reflections,
        is_shared=intensities.is_shared(context.unknowns),
        direction=intensities.volume_direction(context.unknowns),
        restraint=_restraint(context),
        seed=config.seed,
        add=reduced,
    )
    about = intensities.modelled(reflections, reflections.intensity)
    cycles: list[Cycle] = []
    while True:
        number = len(cycles) + 1
        about = _rounded(about)
        key = store.digest(key, about.tobytes())
        ids = [block.ids for block in context.blocks]
        parts = store.Parts(out.with_suffix(".gram") / f"{number}.h5", Gram, key, ids)
        _expand(context, parts, starts, about, number)
        before = cycles[-1].refined if cycles else None
        start_time = time.process_time()
        refined = stage2.refine(problem, _batches(context, parts), about, before)
        figures = _figures(context, parts, refined, about)
        figures["seconds"] = time.process_time() - start_time
        cycles.append(Cycle(parts, refined, figures))
        mtz_of_cycle = out.with_suffix(".cycles") / f"{number}.mtz"
        context.world.once(lambda: write_mtz(context, mtz_of_cycle, refined))  # noqa: B023
        words = "cycle %d: %d lattices, I moved by %.3g σ (r.m.s.), held out %.6g -> %.6g"
        held_out = (refined.held_out_before, refined.held_out)
        context.log.info(words, number, figures["n_lattices"], figures["change"], *held_out)
        if figures["change"] < section.converged or number == section.max_cycles:
            return cycles
        if refined.held_out >= refined.held_out_before:
            return cycles
        about = intensities.modelled(reflections, refined.intensity)
        starts = _with_factors(context, starts_again(parts), refined.shared)


def _with_factors(context: Context, starts: StartsOfBlock, shared: np.ndarray) -> StartsOfBlock:
    """Return starts with N and η multiplied by common factors. shared: (shared,) ln of these."""

    def changed(block: int) -> Starts:
        return {
            identity: (outcome, intensities.with_factors(start, context.unknowns, shared))
            for identity, (outcome, start) in starts(block).items()
        }

    return changed


def drawn_starts(stage1: Path, unknowns: list[str]) -> StartsOfBlock:
    """Return where stage 1 left each lattice, with N and η drawn to the common ones."""
    table = Stage1.lattices
    uncertain = [table.n_cells, table.eta_axes_rad, table.sigma_sandwich]
    wanted = [table.shot_id, table.k, table.outcome, *uncertain]
    lattices = store.read(stage1, Stage1, wanted).lattices
    good = lattices[lattices.outcome == RefinedOutcome.REFINED]
    moves = intensities.moves_together(
        unknowns, good.n_cells, good.eta_axes_rad, good.sigma_sandwich
    )
    identities = zip(good.shot_id.tolist(), good.k.tolist(), strict=True)
    move_of = dict(zip(identities, moves, strict=True))
    starts = {
        identity: (outcome, intensities.with_factors(start, unknowns, move_of[identity]))
        for identity, (outcome, start) in starts_from(stage1)(0).items()
        if identity in move_of
    }
    return lambda block: starts


def _restraint(context: Context) -> Restraint | None:
    """Return the restraint of the intensities to those they start from."""
    sigma = context.config.stage2.restraint_sigma
    reflections = context.reflections
    if sigma is None:
        return None
    start = intensities.modelled(reflections, reflections.intensity)
    precision = np.where(reflections.is_measured, (sigma * start) ** -2.0, 0.0)
    return Restraint(start, precision)


def _rounded(values: np.ndarray) -> np.ndarray:
    """Return positive values (n,) rounded to `DIGITS` digits."""
    unit = 10.0 ** (np.floor(np.log10(values)) - (DIGITS - 1))
    return np.round(values / unit) * unit


def _expand(
    context: Context, parts: store.Parts[Gram], starts: StartsOfBlock, about: np.ndarray, cycle: int
) -> None:
    """Make all parts of a cycle, expanded about intensities (reflection,)."""
    reflections = context.reflections
    flat = intensities.flat_factors(context.models[0].factors, reflections, about)
    models = [model._replace(factors=flat) for model in context.models]
    expansion = Expansion(
        shoeboxes=context.pack,
        kind="pack",
        blocks=context.blocks,
        unknowns=context.unknowns,
        n_channels=len(models[0].energies_ev),
        log=context.log,
    )

    def expand(shoeboxes: Annulus, row: LatticeRow, start: Start) -> ExpandedLattice:
        lattice = unpack(shoeboxes, row.row)
        mosaic = context.mosaic_of(row.shot_id, row.k)
        pixels = context.config.stage1
        model = models[row.run]
        return intensities.expand_flat(lattice, mosaic, model, reflections, pixels, start)

    def make(piece: Piece) -> Gram:
        return expanded(expansion, piece, starts(piece.block), expand)

    work = skeleton.PieceWork(make, context.config.stage2.block_lattices, "lattices")
    n_lattices = [len(block.lattices) for block in context.blocks]
    skeleton.run(parts, n_lattices, work, f"stage2, cycle {cycle}", context.world)
    parts.finish(
        context.world,
        energies_ev=models[0].energies_ev,
        unknowns=context.unknowns,
        cycle=cycle,
    )


def _batches(context: Context, parts: store.Parts[Gram]) -> stage2.Batches:
    """Return the function that reads the batches which this rank is dealt, each time anew: they
    need not all be in memory. Collective.
    """
    blocks = skeleton.deal(parts, Gram.triangles, context.world)
    unique = context.reflections.unique

    def batches() -> Iterator[OwnBatch]:
        for block in blocks:
            part = parts.read(block)
            used = part.lattices.outcome == SpreadOutcome.USED
            half = identity_hash.half_sets(part.lattices.shot_id[used])
            yield OwnBatch(block, intensities.batch_of(part, unique), half)

    return batches


def _figures(
    context: Context, parts: store.Parts[Gram], refined: Intensities, about: np.ndarray
) -> dict[str, float]:
    """Return the row of the table `cycles` of a cycle. Raises FileError where no lattice can be
    used.
    """
    lattices = skeleton.all_rows(parts, Gram.lattices, context.world)
    used = lattices[lattices.outcome == SpreadOutcome.USED]
    if not len(used):
        found = f"{len(lattices)} of which none can be"
        todo = "Look at stage1.png and predict.png."
        raise FileError(context.pack, "lattices of which one can be used", found, todo)
    is_known = np.isfinite(refined.sigma)
    moved = (refined.intensity - about)[is_known] / refined.sigma[is_known]
    return {
        "n_lattices": len(used),
        "change": float(np.sqrt(np.mean(moved**2))),
        "spread": refined.spread,
        "scatter": refined.fraction,
        "held_out": refined.held_out,
        "held_out_before": refined.held_out_before,
        "model_error": float(np.median(used.model_error)),
        "n_cells": float(np.median(used.n_cells)),
        "eta_deg": float(np.median(used.eta_axes_rad) / DEG),
        "n_undetermined": refined.n_undetermined,
        "log_factor": float(np.abs(refined.shared).max(initial=0.0)),
        "n_iterations": refined.n_iterations,
    }


def write_mtz(context: Context, path: Path, refined: Intensities) -> None:
    """Write the intensities and amplitudes of a cycle."""
    unique = context.reflections.unique
    known = np.flatnonzero(np.isfinite(refined.sigma))
    amplitudes = stage2_product.amplitudes(context.reflections, refined)
    of_merge = store.attributes(context.merge, Merge)
    mtz.write_merged(
        path,
        mtz.MergedTable(
            hkl=unique.hkl[known],
            friedel=unique.friedel[known],
            intensity=refined.intensity[known],
            sigma=refined.sigma[known],
            n=refined.n[known],
        ),
        mtz.Amplitudes(amplitudes.amplitude, amplitudes.amplitude_sigma),
        cell=np.array(of_merge["cell"]),
        space_group=of_merge["space_group"],
        wavelength=of_merge["wavelength_ang"],
        history="spreadflow stage2",
    )
