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
from spreadflow.io import factor_files, store
from spreadflow.io.images import Source, open_indexed, read_again
from spreadflow.io.lattices import stills
from spreadflow.io.lattices.product import ProductLattices
from spreadflow.io.pieces import Piece
from spreadflow.log import logger, warn
from spreadflow.models import Detector, Noise, Spots
from spreadflow.parallel import World
from spreadflow.physics import unit_cell
from spreadflow.products import Children, Predict, Reindex, Stage1
from spreadflow.products.index import Lattices
from spreadflow.recipes.prediction import (
    KnownLattice,
    Recording,
    mean_intensities,
    predict_shot,
    reflection_rows,
)
from spreadflow.recipes.run_model import check_runs
from spreadflow.recipes.shot import LARGEST_ETA_RAD
from spreadflow.stages import blocks as skeleton
from spreadflow.stages.factors import read_files

LARGEST_PIECE = 8
"""Shots that a rank works on before it writes them."""

LEAST_MATCHED = 0.8
"""Share of the observed spots of lattices that lie where these are predicted, without a warning."""

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
    part: store.Part[Reindex]


class Part(NamedTuple):
    """What is read of a part of reindex, and which of its rows belong together."""

    reindex: Reindex
    lattices_of_shot: Children
    spots_of_shot: Children
    spots_of_lattice: Children


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
    of_runs = zip(images, reindex, attributes, map(build.noise, config.recordings), strict=True)
    runs = [_open(number, *of_run) for number, of_run in enumerate(of_runs)]
    blocks = [block for of_run in runs for block in _blocks(of_run)]
    files = read_files(config.structure_factors, log)
    context = Context(
        config=config,
        known=_refined(stage1),
        means=mean_intensities(config, _mean_energy_ev(stage1, reindex), files),
    )
    key = store.digest(config.model_dump(mode="json"), _identities(config, runs, stage1))
    ids = [[block.run.number, block.part.number] for block in blocks]
    parts = store.Parts(out, Predict, key, ids)
    reader: store.PartReader[Reindex] = store.PartReader(
        [Reindex.shots.shot_id, Reindex.shots.mean_energy_ev, Reindex.lattices, Reindex.spots]
    )

    def make(piece: Piece) -> Predict:
        block = blocks[piece.block]
        shots = range(piece.first, piece.end)
        return _piece(context, block, reader.read(block.part), shots)

    n_shots = [block.part.n_rows("shots") for block in blocks]
    skeleton.run(parts, n_shots, skeleton.PieceWork(make, LARGEST_PIECE, "shots"), word, world)
    outcomes = skeleton.outcomes(parts, Predict.lattices.outcome, PredictedOutcome, world)
    log.info("%d lattices: %s", sum(outcomes.values()), skeleton.in_words(outcomes))
    if not outcomes["predicted"]:
        todo = "Look at stage1.png; stage 1 and reindex must be of the same trial."
        raise FileError(stage1, "lattices of reindex", skeleton.in_words(outcomes), todo)
    sources = [of_run.source for of_run in runs]
    parts.finish(
        world,
        warnings=warn(log, _warnings(parts, world)),
        config=section.model_dump(mode="json"),
        outcomes=outcomes,
        shells=context.means._asdict(),
        **_attributes(attributes, sources),
    )
    lattices = ProductLattices(out, reindex=reindex, images=images)
    world.once(partial(stills.write, Path(out).with_suffix(""), lattices))


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
    described = Stage1.lattices
    identity = [described.shot_id, described.k]
    model = [described.A, described.n_cells, described.eta_rad, described.values]
    lattices = store.read(stage1, Stage1, [*identity, described.outcome, *model]).lattices
    unknowns = store.attributes(stage1, Stage1)["unknowns"]
    distances = np.zeros(len(lattices))
    if "distance" in unknowns:
        distances = np.nan_to_num(lattices.values[:, unknowns.index("distance")])
    known = {}
    for row in np.flatnonzero(lattices.outcome == RefinedOutcome.REFINED):
        k = int(lattices.k[row])
        A = lattices.A[row]
        eta_rad = float(lattices.eta_rad[row])
        volume = unit_cell.volume(unit_cell.cell_of(A))
        domain_ang = (volume * np.prod(lattices.n_cells[row])) ** (1 / 3)
        is_smeared = eta_rad > LARGEST_ETA_RAD
        outcome = PredictedOutcome.SMEARED if is_smeared else PredictedOutcome.PREDICTED
        known[int(lattices.shot_id[row]), k] = KnownLattice(
            k=k,
            lattice=MosaicLattice(A, eta_rad, float(domain_ang)),
            outcome=outcome,
            distance_mm=float(distances[row]),
        )
    return known


def _mean_energy_ev(stage1: Path, reindex: list[Path]) -> float:
    """Return the median of the mean energies of the pulses that were indexed, eV."""
    wanted = [Reindex.shots.mean_energy_ev]
    of_runs = [store.read(path, Reindex, wanted).shots for path in reindex]
    energies = np.concatenate([shots.mean_energy_ev for shots in of_runs])
    energies = energies[np.isfinite(energies)]
    if not len(energies):
        raise FileError(stage1, "a shot with a spectrum", "none", "Look at reindex.png.")
    return float(np.median(energies))


def _piece(context: Context, block: Block, reindex: Reindex, shots: range) -> Predict:
    """Return the lattices of some shots of one block. reindex: its part."""
    part = Part(
        reindex=reindex,
        lattices_of_shot=Children(reindex.lattices.shot),
        spots_of_shot=Children(reindex.spots.shot),
        spots_of_lattice=Children(reindex.spots.lattice),
    )
    indexed = [shot for shot in shots if len(part.lattices_of_shot[shot])]
    return Predict.joined([_of_shot(context, block, part, shot) for shot in indexed])


def _of_shot(context: Context, block: Block, part: Part, shot: int) -> Predict:
    """Return the lattices of one shot, and their reflections where one is predicted.

    shot: row of the shot in the part.
    """
    start = time.process_time()
    rows = part.lattices_of_shot[shot]
    shot_id = int(part.reindex.shots.shot_id[shot])
    number = block.part.rows("shots").start + shot
    lattices = [_known(context.known, part.reindex.lattices, shot_id, row) for row in rows]
    outcomes = [_alone(known.outcome) for known in lattices]
    scales = [np.nan] * len(rows)
    of_shot = Predict()
    if any(known.is_refined for known in lattices):
        recorded = read_again(block.run.source, number, shot_id)
        spots = _spots(part, shot)
        predicted = predict_shot(
            recorded, lattices, spots, context.means, context.config, block.run.recording
        )
        of_shot.reflections = reflection_rows(predicted, spots)
        outcomes = predicted.outcomes
        scales = predicted.scales
    seconds = (time.process_time() - start) / len(rows)
    of_shot.lattices = Predict.lattices.from_rows(
        [
            {
                "run": block.run.number,
                "shot_id": np.uint64(shot_id),
                "k": known.k,
                "outcome": outcome,
                "shot": number,
                **known.lattice._asdict(),
                "scale": scale,
                "mean_energy_ev": part.reindex.shots.mean_energy_ev[shot],
                "n_spots": _n_spots(part, row, context.config.predict.d_min),
                "seconds": seconds,
            }
            for row, known, outcome, scale in zip(rows, lattices, outcomes, scales, strict=True)
        ]
    )
    return of_shot


def _alone(outcome: PredictedOutcome) -> PredictedOutcome:
    """Return the outcome of a lattice whose shot has none that is predicted."""
    is_neighbour = outcome == PredictedOutcome.NEIGHBOUR
    return PredictedOutcome.NOT_REFINED if is_neighbour else outcome


def _known(known: Known, lattices: Lattices, shot_id: int, row: int) -> KnownLattice:
    """Return a lattice as stage 1 refined it, or else as its row of reindex has it."""
    k = int(lattices.k[row])
    refined = known.get((shot_id, k))
    if refined is not None and refined.is_refined:
        return refined
    lattice = MosaicLattice(
        A=lattices.A[row],
        eta_rad=float(lattices.eta_rad[row]),
        domain_ang=float(lattices.domain_ang[row]),
    )
    outcome = PredictedOutcome.NEIGHBOUR if refined is None else refined.outcome
    return KnownLattice(k, lattice, outcome)


def _spots(part: Part, shot: int) -> Spots:
    """Return the observed spots of a shot."""
    spots = part.reindex.spots[part.spots_of_shot[shot]].as_dict()
    return Spots(*(spots[name] for name in Spots._fields))


def _n_spots(part: Part, row: int, d_min: float) -> int:
    """Return the number of spots with d ≥ d_min (Å) that reindex gave a lattice."""
    hkl = part.reindex.spots.hkl[part.spots_of_lattice[row]]
    is_within = unit_cell.spacing(part.reindex.lattices.A[row], hkl) >= d_min
    return int(is_within.sum())


def _warnings(parts: store.Parts[Predict], world: World) -> list[StageWarning]:
    """Return what to know before the reflections are trusted. Collective."""
    own = np.zeros(2, dtype=int)
    of_lattices = [Predict.lattices.outcome, Predict.lattices.n_spots]
    of_reflections = [Predict.reflections.lattice, Predict.reflections.fast_spot]
    for block in range(world.rank, len(parts.keys), world.size):
        part = parts.read(block, of_lattices + of_reflections)
        is_predicted = part.lattices.outcome == PredictedOutcome.PREDICTED
        of_predicted = is_predicted[part.reflections.lattice]
        has_spot = np.isfinite(part.reflections.fast_spot)
        own += [(has_spot & of_predicted).sum(), part.lattices.n_spots[is_predicted].sum()]
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
