"""The observations that a merge averaged, as an MTZ file for programs that scale, merge, judge."""

from collections.abc import Sequence
from pathlib import Path

import gemmi
import numpy as np

from spreadflow.config import MergeSection
from spreadflow.errors import FileError
from spreadflow.io import mtz, store
from spreadflow.parallel import World
from spreadflow.products import Cells, Merge
from spreadflow.products.index import Reflections
from spreadflow.stages import scaled_observations
from spreadflow.stages.scaled_observations import Scaled
from spreadflow.units import wavelength

KEPT = (Reflections.hkl, Reflections.fast, Reflections.slow, Reflections.partiality)
"""Columns of reflections that are written as they are."""


def export(product: Path, out: Path, images: Sequence[Path] = ()) -> list[Path]:
    """Write the observations of a product of `merge` as `out`_unmerged.mtz, and return this path.
    Raises FileError.
    """
    path = out.with_name(f"{out.name}_unmerged.mtz")
    mtz.save(table(product), path)
    return [path]


def table(product: Path, is_in_asu: bool = True) -> gemmi.Mtz:
    """Return the observations of a product of `merge` as an MTZ table: scaled, with the σ that they
    were averaged with, each lattice a batch; is_in_asu: as `mtz.unmerged`.

    They are scaled anew, as a merge does not keep them, from the products of `reindex` and `cells`
    beside it. Raises FileError where these have changed since.
    """
    attributes = store.attributes(product, Merge)
    section = MergeSection.model_validate(attributes["config"])
    reindex = [product.parent / run / "reindex.h5" for run in attributes["runs"]]
    cells = product.parent / "cells.h5"
    if scaled_observations.inputs_of(section, reindex, cells) != attributes["inputs"]:
        expected = "the products of reindex and cells that it was made from, beside it"
        raise FileError(product, expected, "others", "Rerun merge.")

    scaled = scaled_observations.scale(
        section, reindex=reindex, cells=cells, world=World(), word="export", keep=KEPT
    )
    batches = _batches(cells, attributes["runs"], scaled)
    if len(batches) > mtz.MOST_BATCHES:
        expected = f"at most {mtz.MOST_BATCHES} lattices, as batches are numbered"
        todo = "Write them as .expt and .refl: --to dials."
        raise FileError(product, expected, len(batches), todo)
    return mtz.unmerged(
        _observations(scaled, section.min_multiplicity),
        batches,
        cell=np.array(attributes["cell"]),
        space_group=attributes["space_group"],
        wavelength=attributes["wavelength_ang"],
        history=f"spreadflow merge, scaling: {attributes['scaling']}",
        is_in_asu=is_in_asu,
    )


def _observations(scaled: Scaled, min_multiplicity: int) -> mtz.Observations:
    """Return the observations of reflections that were measured often enough to be merged."""
    n = np.bincount(scaled.observations.unique)
    is_merged = n[scaled.observations.unique] >= min_multiplicity
    kept = scaled.kept
    columns = mtz.Observations(
        hkl=kept.hkl,
        batch=scaled.observations.lattice,
        intensity=scaled.scales.intensity,
        sigma=scaled.scales.sigma,
        fast=kept.fast,
        slow=kept.slow,
        partiality=kept.partiality,
    )
    return mtz.Observations(*(column[is_merged] for column in columns))


def _batches(cells: Path, runs: Sequence[str], scaled: Scaled) -> list[mtz.Batch]:
    """Return a batch for each lattice that was used, with its own cell and the mean wavelength of
    its pulse.
    """
    listed = store.read(cells, Cells, [Cells.lattices]).lattices
    names = zip(listed.run.tolist(), listed.shot_id.tolist(), listed.k.tolist(), strict=True)
    row_of = {identity: row for row, identity in enumerate(names)}
    batches = []
    for row in np.flatnonzero(scaled.lattices.used):
        own = scaled.own
        run, shot_id, k = int(own.run[row]), int(own.shot_id[row]), int(own.k[row])
        batches.append(
            mtz.Batch(
                title=f"{runs[run]} shot {shot_id} k {k}"[-mtz.LONGEST_TITLE :],
                wavelength=float(wavelength(own.energy_ev[row])),
                cell=listed.cell[row_of[run, shot_id, k]],
            )
        )
    return batches
