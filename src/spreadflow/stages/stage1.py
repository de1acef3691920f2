"""stage1: every accepted lattice refined against its pixels. Writes stage1.h5 with its parts, and stage1.csv.

A block is at most `block_lattices` lattices of one part of the shoeboxes.
"""

import csv
import time
from logging import Logger
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow import build
from spreadflow.analysis.pixels import lattice_fit
from spreadflow.config import (
    LadderConfig,
    MosaicConfig,
    SpreadConfig,
    Stage1Config,
    Stage1Section,
    StructureFactorsSection,
)
from spreadflow.errors import ConfigError, RefinedOutcome
from spreadflow.io import schema, store
from spreadflow.log import Progress, logger
from spreadflow.models import Detector
from spreadflow.parallel import World
from spreadflow.physics import symmetry, unit_cell
from spreadflow.recipes import factors
from spreadflow.recipes import lattice as pixelfit
from spreadflow.recipes.still import PERTURBATION
from spreadflow.stages import mosaicity

FITTED = (RefinedOutcome.REFINED, RefinedOutcome.NOT_CONVERGED)
"""lattices whose numbers and reflections are told"""
N_SAMPLES = 8
"""shoeboxes of the first fitted lattice of a block whose pixels are kept, for pictures"""
CELL_TOLERANCE = 0.05
"""how far the lattices' median cell may be from that of the structure factors, relative; of angles in rad"""


class Block(NamedTuple):
    part: int
    key: str
    lattices: range
    """rows in the part"""
    ids: list[int]
    """shot_id and k of each"""


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

    shoeboxes: the packed pixels, of `annulus` or `wide` as the section says; mosaic: what was learned.
    """
    section = config.stage1
    log = logger(word, world)
    told = store.attributes(shoeboxes, section.range)
    blocks = blocks_of(shoeboxes, section.block_lattices, section.range)
    spread = mosaicity.of_lattices(section, mosaic)
    files = [
        shoeboxes,
        *factors.files(config.structure_factors),
        *filter(None, [section.domains, mosaic]),
    ]
    inputs = [config.seed, config.beam.size_mm, *map(store.identity, files)]
    sections = [part.model_dump(mode="json") for part in (section, config.structure_factors)]
    parts = store.Parts(out, word, store.digest(sections, inputs), [block.ids for block in blocks])
    given = (
        []
        if all(map(parts.done, range(len(blocks))))
        else given_of(config, shoeboxes, told, word, section.range)
    )
    names = _names(section, told["space_group"], blocks, spread)
    with Progress(word, len(blocks), world) as progress:

        def make(n: int) -> dict:
            progress.at(n)
            return _columns(section, blocks[n], shoeboxes, given, spread, names, log)

        parts.each(world, make)
        progress.at(len(blocks))
    outcomes: dict[str, int] = {}

    def tell() -> None:
        lattices = [parts.read(n, ["lattices/"]) for n in range(len(blocks))]
        table = store.joined(
            word, [name for name in schema.FILES[word] if name.startswith("lattices/")], lattices
        )
        _write_csv(out.with_suffix(".csv"), table, told["runs"], names)
        outcomes.update(
            {
                end.name.lower(): int((table["lattices/outcome"] == end).sum())
                for end in RefinedOutcome
            }
        )
        log.info(
            "%d lattices: %s",
            sum(outcomes.values()),
            ", ".join(f"{n} {end}" for end, n in outcomes.items() if n),
        )

    world.once(tell)
    carried = {name: told[name] for name in ("runs", "space_group", "detectors")}
    parts.finish(
        world, config=section.model_dump(mode="json"), unknowns=names, outcomes=outcomes, **carried
    )


def blocks_of(annulus: Path, size: int, kind: str = "annulus") -> list[Block]:
    """Blocks of at most `size` lattices of one part of packed shoeboxes. kind: annulus or wide."""
    out = []
    for part, key in enumerate(store.part_keys(annulus, kind)):
        columns = store.read_part(annulus, kind, part, key, ["lattices/shot_id", "lattices/k"])
        ids = np.stack(
            [columns["lattices/shot_id"], columns["lattices/k"].astype(np.uint64)], axis=1
        )
        for first in range(0, len(ids), size):
            rows = range(first, min(first + size, len(ids)))
            out.append(Block(part, key, rows, ids[rows].ravel().tolist()))
    return out


def _names(
    section: Stage1Section, space_group: str, blocks: list[Block], spread: mosaicity.OfLattice
) -> list[str]:
    """Of the unknowns that any lattice has: η is one of those without given or learned domains alone."""
    n_strains = len(symmetry.reciprocal_metric_basis(space_group))
    free = tuple(section.refine)
    lattices = (
        lattice for block in blocks for lattice in zip(block.ids[::2], block.ids[1::2], strict=True)
    )
    each = [
        lattice_fit.unknowns(free, spread(*lattice), n_strains, section.n_cells_axes)
        for lattice in lattices
    ]
    return lattice_fit.names(max(each, key=len, default={}))


def given_of(
    config: LadderConfig | MosaicConfig | Stage1Config | SpreadConfig,
    annulus: Path,
    told: dict,
    word: str,
    kind: str = "annulus",
) -> list[pixelfit.RunModel]:
    """What the lattices of each run share, for the stage `word`. kind: annulus or wide. Raises ConfigError."""
    of = config.structure_factors
    energies = np.empty(0)
    mean = []
    for part, key in enumerate(store.part_keys(annulus, kind)):
        spectra = store.read_part(annulus, kind, part, key, ["spectra/"])
        energies = np.union1d(energies, spectra["spectra/energies_ev"])
        total = np.maximum(spectra["spectra/photons"].sum(axis=1), 1e-300)
        mean.append(
            (spectra["spectra/energies_ev"] * spectra["spectra/photons"]).sum(axis=1) / total
        )
    _check(
        of,
        store.read(annulus, kind, ["lattices/A"])["lattices/A"],
        told,
        f"{word}.structure_factors",
    )
    rng = np.random.default_rng([config.seed, 0, PERTURBATION])
    made = factors.factors(of, energies, float(np.median(np.concatenate(mean))), rng)
    return [
        pixelfit.RunModel(
            made, energies, told["space_group"], Detector.from_json(d), k, config.beam.size_mm
        )
        for d, k in zip(told["detectors"], told["polarizations"], strict=True)
    ]


def _check(of: StructureFactorsSection, A: np.ndarray, told: dict, where: str) -> None:
    """Raise ConfigError where the structure factors are not those of the lattices' crystal, of matrices (n, 3, 3)."""
    assert of.space_group is not None, "filled in when a stage is handed its sections"
    group = symmetry.group(of.space_group)
    theirs = symmetry.group(told["space_group"])
    if (group.hm[0], group.point_group_hm()) != (theirs.hm[0], theirs.point_group_hm()):
        expected = (
            f"a space group with the centring and point group of {told['space_group']}, as indexed"
        )
        raise ConfigError(
            f"{where}.space_group", expected, of.space_group, "Give the model's, or index in it."
        )
    cell = np.median([unit_cell.cell_of(a) for a in A], axis=0)
    mine = build.cell(of)
    if (np.abs(cell / mine - 1.0)[:3] > CELL_TOLERANCE).any() or (
        np.abs(cell - mine)[3:] > CELL_TOLERANCE
    ).any():
        expected = (
            f"about the cell of the lattices, {np.round(unit_cell.degrees(cell), 2).tolist()}"
        )
        raise ConfigError(
            f"{where}.cell", expected, of.cell, "Give the model that belongs to these crystals."
        )
    if told["config"]["d_min"] < of.d_min:
        expected = f"at most the d_min of the shoeboxes, {told['config']['d_min']:g} Å"
        raise ConfigError(f"{where}.d_min", expected, of.d_min, "Lower it, or narrow their range.")


def _columns(
    section: Stage1Section,
    block: Block,
    annulus: Path,
    given: list[pixelfit.RunModel],
    spread: mosaicity.OfLattice,
    names: list[str],
    log: Logger,
) -> dict[str, np.ndarray]:
    """The part of one block."""
    columns = store.read_part(annulus, section.range, block.part, block.key)
    pieces = []
    n_samples = N_SAMPLES
    for i in block.lattices:
        began = time.process_time()
        run, shot_id, k = (columns[f"lattices/{name}"][i] for name in ("run", "shot_id", "k"))
        packed = pixelfit.unpack(columns, i)
        ended = pixelfit.refine(packed, spread(int(shot_id), int(k)), given[run], section)
        if ended.why:
            log.warning("shot %016x lattice %d: %s (%s)", shot_id, k, ended.outcome.name, ended.why)
        row = _blank(len(names)) | {
            "run": run,
            "shot_id": shot_id,
            "k": k,
            "outcome": ended.outcome,
        }
        tables: dict[str, dict] = {}
        if ended.outcome in FITTED:
            row |= pixelfit.of_lattice(ended, names, section.uncertainty)
            tables["reflections"] = pixelfit.of_reflections(packed, ended)
            tables |= pixelfit.samples(packed, ended, n_samples)
            n_samples = 0
        row["seconds"] = time.process_time() - began
        tables["lattices"] = {name: np.array([value]) for name, value in row.items()}
        pieces.append(store.piece("stage1", tables))
    return store.joined("stage1", schema.FILES["stage1"], pieces)


def _blank(n_unknowns: int) -> dict[str, np.ndarray]:
    """The row of a lattice that could not be fitted."""
    table = {
        path.split("/")[1]: d
        for path, d in schema.FILES["stage1"].items()
        if path.startswith("lattices/")
    }
    shapes = {
        name: [n_unknowns if isinstance(n, str) else n for n in d.dims[1:]]
        for name, d in table.items()
    }
    return {
        name: np.full(shapes[name], np.nan if d.dtype == "float64" else 0)
        for name, d in table.items()
    }


def _write_csv(path: Path, table: dict[str, np.ndarray], runs: list[str], names: list[str]) -> None:
    """One line a lattice. Angles in degrees; σ of the unknowns are the sandwich's and Fisher's."""
    t = {name.split("/")[1]: column for name, column in table.items()}
    columns = {
        "run": [runs[r] for r in t["run"]],
        "shot_id": [f"{i:016x}" for i in t["shot_id"]],
        "k": t["k"],
    }
    columns["outcome"] = [RefinedOutcome(n).name.lower() for n in t["outcome"]]
    cells = unit_cell.degrees(t["cell"]).T
    columns |= dict(zip(("a", "b", "c", "alpha_deg", "beta_deg", "gamma_deg"), cells, strict=True))
    columns |= {
        f"A{i // 3 + 1}{i % 3 + 1}": column for i, column in enumerate(t["A"].reshape(-1, 9).T)
    }
    columns |= {
        f"n_cells_{axis}": column for axis, column in zip("abc", t["n_cells"].T, strict=True)
    }
    columns |= {"eta_deg": np.rad2deg(t["eta_rad"]), "scale": t["scale"]}
    for kind in ("values", "sigma_fisher", "sigma_sandwich"):
        columns |= {f"{kind}.{name}": column for name, column in zip(names, t[kind].T, strict=True)}
    plain = (
        "loss_before",
        "loss_after",
        "sigma_z",
        "n_evaluations",
        "n_boxes",
        "n_pixels",
        "seconds",
    )
    columns |= {name: t[name] for name in plain}
    with store.replacing(path) as temporary, open(temporary, "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
