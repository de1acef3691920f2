"""predict: the reflections of the lattices that stage 1 refined, integrated, and which of them are
worth their pixels. Writes predict.h5 with its parts, predict.expt and predict.refl.

A block is a part of `reindex`. All lattices of a shot are predicted and integrated together; shots
without a refined lattice are not opened.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow import build
from spreadflow.analysis.still.choosing import ShellMeans
from spreadflow.analysis.still.prediction import MosaicLattice
from spreadflow.config import IndexSection, PredictConfig
from spreadflow.errors import FileError, PredictedOutcome, RefinedOutcome, StageWarning
from spreadflow.io import datasets, factor_files, schema, stills, store
from spreadflow.io.images import Source, open_indexed, read_again
from spreadflow.io.pieces import Piece
from spreadflow.io.rows import columns_of
from spreadflow.log import logger, warn
from spreadflow.models import Detector, Noise, Spots
from spreadflow.parallel import World
from spreadflow.physics import unit_cell
from spreadflow.products import Reindex, Stage1
from spreadflow.recipes.prediction import (
    KnownLattice,
    Recording,
    mean_intensities,
    predict_shot,
    reflection_columns,
)
from spreadflow.recipes.run_model import check_runs
from spreadflow.recipes.shot import LARGEST_ETA_RAD
from spreadflow.stages import blocks as skeleton

REINDEX_COLUMNS = ("shots/shot_id", "shots/mean_energy_ev", "lattices/", "spots/")
"""Datasets of a part of reindex that are read."""

REFINED_COLUMNS = ("shot_id", "k", "outcome", "A", "n_cells", "eta_rad", "values")
"""Columns of the lattices of stage 1 that are read."""

LARGEST_PIECE = 8
"""Shots that a rank works on before it writes them."""

LEAST_MATCHED = 0.8
"""Share of the observed spots of lattices that lie where these are predicted, without a warning."""

JUDGED = (
    "lattices/outcome",
    "lattices/n_spots",
    "reflections/lattice",
    "reflections/fast_spot",
)
"""Datasets from which warnings are taken."""

Known = dict[tuple[int, int], KnownLattice]
"""shot_id, k → a lattice that stage 1 refined to the end, smeared or not."""


class Run(NamedTuple):
    """The images and lattices of a run."""

    number: int
    source: Source
    reindex: Path
    recording: Recording


class Block(NamedTuple):
    """A part of a run's reindex product."""

    run: Run
    part: store.Part


class Context(NamedTuple):
    """What all blocks share."""

    config: PredictConfig
    known: Known
    means: ShellMeans


def run(
    config: PredictConfig,
    *,
    images: list[Path],
    reindex: list[Path],
    stage1: Path,
    out: Path,
    world: World,
    word: str = "predict",
) -> None:
    """Write <word>.h5 with its parts, <word>.expt and <word>.refl.

    images, reindex: manifest and product of each run, in the same order; stage1: refined lattices.
    """
    section = config.predict
    log = logger(word, world)
    attributes = [store.attributes(path, Reindex) for path in reindex]
    check_runs(config.recordings, len(reindex))
    columns = zip(images, reindex, attributes, map(build.noise, config.recordings), strict=True)
    runs = [_open(number, *of_run) for number, of_run in enumerate(columns)]
    blocks = [block for of_run in runs for block in _blocks(of_run)]
    files = factor_files.read(config.structure_factors)
    context = Context(
        config=config,
        known=_refined(stage1),
        means=mean_intensities(config, _mean_energy_ev(stage1, reindex), files),
    )
    key = store.digest(config.model_dump(mode="json"), _identities(config, runs, stage1))
    parts = store.Parts(out, word, key, [[block.run.number, block.part.number] for block in blocks])
    reader = store.PartReader(REINDEX_COLUMNS)

    def make(piece: Piece) -> datasets.Columns:
        block = blocks[piece.block]
        shots = range(piece.first, piece.end)
        return _columns(context, block, reader.read(block.part), shots)

    n_shots = [block.part.n_rows("shots") for block in blocks]
    skeleton.run_pieces(
        parts, n_shots, skeleton.PieceWork(make, LARGEST_PIECE, "shots"), word, world
    )
    outcomes = skeleton.outcomes(parts, "lattices/outcome", PredictedOutcome, world)
    log.info("%d lattices: %s", sum(outcomes.values()), skeleton.in_words(outcomes))
    if not outcomes["predicted"]:
        todo = "Look at stage1.png; stage 1 and reindex must be of the same trial."
        raise FileError(stage1, "lattices of reindex", skeleton.in_words(outcomes), todo)
    sources = [of_run.source for of_run in runs]
    of_product = _attributes(attributes, sources)
    world.once(partial(stills.write, parts, sources, of_product["space_group"]))
    parts.finish(
        world,
        warnings=warn(log, _warnings(parts, world)),
        config=section.model_dump(mode="json"),
        outcomes=outcomes,
        shells=context.means._asdict(),
        **of_product,
    )


def _attributes(reindex: list[dict[str, Any]], sources: list[Source]) -> dict[str, Any]:
    """Return the attributes that the product takes over. reindex: those of each run's."""
    return {
        "runs": [of_run["run"] for of_run in reindex],
        "space_group": reindex[0]["config"]["space_group"],
        "detectors": [of_run["detector"] for of_run in reindex],
        "polarizations": [source.polarization for source in sources],
    }


def _identities(config: PredictConfig, runs: list[Run], stage1: Path) -> list[str]:
    """Return the identities of all that the product is made of beside sections."""
    paths = [*(of_run.reindex for of_run in runs), stage1]
    paths += factor_files.paths_of(config.structure_factors)
    return [*(of_run.source.identity for of_run in runs), *map(store.identity, paths)]


def _open(
    number: int, images: Path, reindex: Path, attributes: dict[str, Any], noise: Noise
) -> Run:
    """Return a run, recorded as its reindex product says. attributes: of that."""
    section = IndexSection.model_validate(attributes["config"])
    detector = Detector.from_json(attributes["detector"])
    source = open_indexed(images, reindex, detector)
    return Run(number, source, reindex, Recording(section, detector, source.polarization, noise))


def _blocks(run: Run) -> list[Block]:
    """Return the blocks of a run."""
    return [Block(run, part) for part in store.parts_of(run.reindex, Reindex)]


def _refined(stage1: Path) -> Known:
    """Return the lattices that stage 1 refined to the end, as prediction wants them."""
    names = [f"lattices/{name}" for name in REFINED_COLUMNS]
    columns = store.read(stage1, Stage1, names)
    unknowns = store.attributes(stage1, Stage1)["unknowns"]
    values = columns.lattices.values
    distances = np.zeros(len(values))
    if "distance" in unknowns:
        distances = np.nan_to_num(values[:, unknowns.index("distance")])
    known = {}
    for row in np.flatnonzero(columns.lattices.outcome == RefinedOutcome.REFINED):
        shot_id, k, _, A, n_cells, eta_rad, _ = (columns[name][row] for name in names)
        volume = unit_cell.volume(unit_cell.cell_of(A))
        domain_ang = (volume * np.prod(n_cells)) ** (1 / 3)
        is_smeared = eta_rad > LARGEST_ETA_RAD
        outcome = PredictedOutcome.SMEARED if is_smeared else PredictedOutcome.PREDICTED
        known[int(shot_id), int(k)] = KnownLattice(
            k=int(k),
            lattice=MosaicLattice(A, float(eta_rad), float(domain_ang)),
            outcome=outcome,
            distance_mm=float(distances[row]),
        )
    return known


def _mean_energy_ev(stage1: Path, reindex: list[Path]) -> float:
    """Return the median of the mean energies of the pulses that were indexed, eV."""
    names = ["shots/mean_energy_ev"]
    energies = np.concatenate([store.read(path, Reindex, names)[names[0]] for path in reindex])
    energies = energies[np.isfinite(energies)]
    if not len(energies):
        raise FileError(stage1, "a shot with a spectrum", "none", "Look at reindex.png.")
    return float(np.median(energies))


def _columns(
    context: Context, block: Block, columns: dict[str, np.ndarray], shots: range
) -> dict[str, np.ndarray]:
    """Return the columns of some shots of one block. columns: of its part of reindex."""
    rows_of_shot: dict[int, list[int]] = {}
    for row, shot in enumerate(columns.lattices.shot):
        if shot in shots:
            rows_of_shot.setdefault(int(shot), []).append(row)
    pieces = [
        datasets.piece("predict", _tables(context, block, columns, shot, rows))
        for shot, rows in sorted(rows_of_shot.items())
    ]
    return datasets.joined("predict", schema.FILES["predict"], pieces)


def _tables(
    context: Context, block: Block, columns: dict[str, np.ndarray], shot: int, rows: list[int]
) -> dict[str, dict[str, np.ndarray]]:
    """Return the rows of one shot in the tables of the product.

    columns: of the part of reindex; shot: row of the shot in it; rows: of its lattices.
    """
    start = time.process_time()
    shot_id = int(columns.shots.shot_id[shot])
    number = block.part.rows("shots").start + shot
    lattices = [_known(context.known, columns, shot_id, row) for row in rows]
    outcomes = [_alone(known.outcome) for known in lattices]
    scales = [np.nan] * len(rows)
    tables = {}
    if any(known.is_refined for known in lattices):
        recorded = read_again(block.run.source, number, shot_id)
        spots = _spots(columns, shot)
        predicted = predict_shot(
            recorded, lattices, spots, context.means, context.config, block.run.recording
        )
        tables["reflections"] = reflection_columns(predicted, spots)
        outcomes = predicted.outcomes
        scales = predicted.scales
    seconds = (time.process_time() - start) / len(rows)
    tables["lattices"] = columns_of(
        [
            {
                "run": block.run.number,
                "shot_id": np.uint64(shot_id),
                "k": known.k,
                "outcome": outcome,
                "shot": number,
                **known.lattice._asdict(),
                "scale": scale,
                "mean_energy_ev": columns.shots.mean_energy_ev[shot],
                "n_spots": _n_spots(columns, row, context.config.predict.d_min),
                "seconds": seconds,
            }
            for row, known, outcome, scale in zip(rows, lattices, outcomes, scales, strict=True)
        ]
    )
    return tables


def _alone(outcome: PredictedOutcome) -> PredictedOutcome:
    """Return the outcome of a lattice whose shot has none that is predicted."""
    is_neighbour = outcome == PredictedOutcome.NEIGHBOUR
    return PredictedOutcome.NOT_REFINED if is_neighbour else outcome


def _known(known: Known, columns: dict[str, np.ndarray], shot_id: int, row: int) -> KnownLattice:
    """Return a lattice as stage 1 refined it, or else as its row of reindex has it."""
    k = int(columns.lattices.k[row])
    refined = known.get((shot_id, k))
    if refined is not None and refined.is_refined:
        return refined
    outcome = PredictedOutcome.NEIGHBOUR if refined is None else refined.outcome
    A, eta_rad, domain_ang = (columns[f"lattices/{name}"][row] for name in MosaicLattice._fields)
    return KnownLattice(k, MosaicLattice(A, float(eta_rad), float(domain_ang)), outcome)


def _spots(columns: dict[str, np.ndarray], shot: int) -> Spots:
    """Return the observed spots of a shot."""
    rows = columns.spots.shot == shot
    return Spots(*(columns[f"spots/{name}"][rows] for name in Spots._fields))


def _n_spots(columns: dict[str, np.ndarray], row: int, d_min: float) -> int:
    """Return the number of spots with d ≥ d_min (Å) that reindex gave a lattice."""
    hkl = columns.spots.hkl[columns.spots.lattice == row]
    is_within = unit_cell.spacing(columns.lattices.A[row], hkl) >= d_min
    return int(is_within.sum())


def _warnings(parts: store.Parts, world: World) -> list[StageWarning]:
    """Return what to know before the reflections are trusted. Collective."""
    own = np.zeros(2, dtype=int)
    for block in range(world.rank, len(parts.keys), world.size):
        columns = parts.read(block, list(JUDGED))
        is_predicted = columns.lattices.outcome == PredictedOutcome.PREDICTED
        of_predicted = is_predicted[columns.reflections.lattice]
        has_spot = np.isfinite(columns.reflections.fast_spot)
        own += [(has_spot & of_predicted).sum(), columns.lattices.n_spots[is_predicted].sum()]
    n_matched, n_spots = map(int, sum(world.gather(own)))
    if n_matched >= LEAST_MATCHED * n_spots:
        return []
    return [
        StageWarning(
            "observed spots lie where reflections are predicted, of those that reindex indexed",
            f"{n_matched} of {n_spots}",
            f"at least {LEAST_MATCHED:.0%}",
            "Look at the distances in predict.png: the tolerance (predict.match_px) may be too "
            "small, or lattices of stage 1 are not those of the spots.",
        )
    ]
