"""stage2: one intensity for each unique reflection, Friedel mates apart, from the pixels of all
lattices together. Writes stage2.h5, stage2.mtz, and of each cycle its Gram matrices and an MTZ.

Lattices are refined against their pixels with the intensities of the cycle before, and reduced to
Gram matrices, block by block; then the intensities are refined from these alone
(`intensity_cycles`).
"""

from pathlib import Path
from typing import Any

import numpy as np

from spreadflow import build
from spreadflow.config import Stage2Config
from spreadflow.errors import FileError
from spreadflow.io import shoebox_blocks, store
from spreadflow.io.mosaic import mosaic_of_lattices
from spreadflow.log import logger, warn
from spreadflow.parallel import World
from spreadflow.physics import unit_cell
from spreadflow.products import Gram, Merge, Stage2
from spreadflow.recipes import factors, intensities, stage2_product
from spreadflow.recipes.intensities import Merged, Reflections
from spreadflow.recipes.lattice import RunModel
from spreadflow.recipes.run_model import run_models
from spreadflow.recipes.stage2_checks import stage2_warnings
from spreadflow.stages.expansions import (
    unknowns_of,
)
from spreadflow.stages.factors import read_files
from spreadflow.stages.intensity_cycles import (
    Context,
    Cycle,
    Reduction,
    alternated,
    drawn_starts,
    write_mtz,
)
from spreadflow.stages.pixel_models import inputs_of

JUDGED = (Gram.lattices, Gram.boxes.d, Gram.boxes.n_pixels, Gram.boxes.sigma_z)
"""Datasets of the last cycle from which the product's tables are made."""


def run(
    config: Stage2Config,
    *,
    pack: Path,
    stage1: Path,
    merge: Path,
    mosaic: Path | None = None,
    out: Path,
    world: World,
    word: str = "stage2",
) -> None:
    """Write <word>.h5 and <word>.mtz.

    pack: packed shoeboxes; stage1: the refined lattices; merge: merged intensities of the same
    lattices; mosaic: the mosaicity that stage 1 used, where that was learned.
    """
    section = config.stage2
    log = logger(word, world)
    files = read_files(config.structure_factors, log)
    recording = shoebox_blocks.read_recording(pack, "pack")
    models = run_models(config, recording, word, files)
    cell = unit_cell.degrees(build.cell(config.structure_factors))
    context = Context(
        config=config,
        pack=pack,
        blocks=shoebox_blocks.blocks_of(pack, "pack", section.block_lattices),
        models=models,
        mosaic_of=mosaic_of_lattices(config.stage1, mosaic),
        unknowns=unknowns_of(stage1, config.stage1),
        reflections=_reflections(config, models[0], cell, recording.photons, merge),
        photons=recording.photons,
        files=files,
        merge=merge,
        log=log,
        world=world,
    )
    inputs = inputs_of(config, [pack, stage1, merge, mosaic, config.stage1.domains])
    reduced = Reduction(world)
    cycles = alternated(context, out, inputs, drawn_starts(stage1, context.unknowns), reduced)
    last = cycles[-1]
    product = _product(context, cycles)
    attributes = _attributes(context, cycles, reduced)
    attributes |= {"runs": recording.attributes["runs"], "inputs": inputs}
    warnings = stage2_warnings(section, [cycle.figures for cycle in cycles], product, attributes)
    attributes["warnings"] = warn(log, warnings)
    key = store.digest(section.model_dump(mode="json"), inputs)

    def write() -> None:
        write_mtz(context, out.with_suffix(".mtz"), last.refined)
        store.write(out, product, key=key, **attributes)

    world.once(write)


def _reflections(
    config: Stage2Config, model: RunModel, cell: np.ndarray, photons: np.ndarray, merge: Path
) -> Reflections:
    """Return the unique reflections and where they start. photons: (channel,) of all pulses."""
    of_model = intensities.from_model(model.factors, cell, model.space_group, photons)
    if config.stage2.start == "model":
        return of_model
    rows = store.read(merge, Merge, [Merge.merged]).merged
    sign = np.where(rows.friedel < 0, -1, 1)[:, None]
    merged = Merged(sign * rows.hkl, rows.intensity, rows.sigma)
    try:
        return intensities.from_merge(of_model, merged)
    except ValueError as error:
        expected = "intensities of the crystal of stage1.structure_factors"
        raise FileError(merge, expected, error, "Look at merge.png.") from None


def _product(context: Context, cycles: list[Cycle]) -> Stage2:
    """Return the product."""
    config = context.config
    last = cycles[-1]
    unique = context.reflections.unique
    gram = store.read(last.parts.path, Gram, JUDGED)
    rows = gram.lattices
    lattices = Stage2.lattices(
        run=rows.run,
        shot_id=rows.shot_id,
        k=rows.k,
        outcome=rows.outcome,
        log_volume=np.log(rows.scale) + np.log(rows.n_cells).sum(axis=1),
        model_error=rows.model_error,
        sigma_z=rows.sigma_z,
        seconds=rows.seconds,
    )
    of_merge = store.read(context.merge, Merge, [Merge.merged]).merged
    on_unique = stage2_product.merged(of_merge, unique)
    map_model = stage2_product.MapModel(
        factors=context.models[0].factors,
        places=factors.places(config.structure_factors, context.files),
        photons=context.photons,
    )
    merged, bins, merge_bins = stage2_product.intensity_tables(
        context.reflections, last.refined, on_unique, config.stage2.n_bins
    )
    return Stage2(
        merged=merged,
        bins=bins,
        merge_bins=merge_bins,
        lattices=lattices,
        cycles=Stage2.cycles.from_rows([cycle.figures for cycle in cycles]),
        shells=stage2_product.shells(gram.boxes, unique.d_min, config.stage2.n_bins),
        sites=stage2_product.peaks(context.reflections, last.refined, on_unique, map_model),
    )


def _attributes(context: Context, cycles: list[Cycle], reduced: Reduction) -> dict[str, Any]:
    """Return the attributes of the product."""
    section = context.config.stage2
    last = cycles[-1].figures
    of_merge = store.attributes(context.merge, Merge)
    return {
        "config": section.model_dump(mode="json"),
        "space_group": of_merge["space_group"],
        "cell": of_merge["cell"],
        "d_min": context.reflections.unique.d_min,
        "mosaicity": context.config.stage1.mosaicity,
        "sites": [site.label for site in context.config.structure_factors.sites],
        "sigma_kind": "fisher with scatter among lattices",
        "converged": last["change"] < section.converged,
        "reduced_bytes": reduced.n_bytes,
        "n_reductions": reduced.n_sums,
    }
