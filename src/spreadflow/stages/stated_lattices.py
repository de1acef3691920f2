"""Lattices with intensities that another program made, taken as its files state them, in place of
`reindex`: what `adopt` does where a run has no images.

Each lattice ends in one `AdoptOutcome`, each shot in one `Outcome`. Shots are read block by block:
a file of any size takes the memory of one shot, and of the names of all.
"""

import time
from collections import Counter
from logging import Logger
from pathlib import Path
from typing import Any

import numpy as np

from spreadflow.analysis.still import bandwidth
from spreadflow.analysis.still.bandwidth import Bandwidth
from spreadflow.config import AdoptConfig, LatticesSection
from spreadflow.errors import AdoptOutcome, FileError, Outcome, StageWarning
from spreadflow.io import store
from spreadflow.io.lattices.listed import Listed
from spreadflow.io.pieces import Piece
from spreadflow.log import logger, warn
from spreadflow.parallel import World
from spreadflow.products import Adopt, Index, Reindex
from spreadflow.recipes import target_axes
from spreadflow.recipes.stated import ShotEnd, take
from spreadflow.recipes.stated_judge import Judged
from spreadflow.recipes.stated_reflections import StatedRun
from spreadflow.stages import blocks as skeleton
from spreadflow.stages import shots

LARGEST_PIECE = 32
"""Shots that a rank works on before it writes them."""

MAX_WARNINGS = 20
"""Largest number of lattices that are not adopted which the log names one by one."""

MAX_DOUBTFUL = 0.1
"""Share of the strong reflections that may have a σ smaller than counting allows without a word."""


def adopt(
    config: AdoptConfig, files: list[Path], run: str, out: Path, world: World, word: str
) -> None:
    """Write `out`, a product of reindex, and adopt.h5. files: of the run. Raises FileError."""
    section = config.reindex
    stated = config.lattices or LatticesSection(files=list(map(str, files)))
    log = logger(word, world)
    listed = Listed(run, files, stated)
    inputs = _identities(files, stated, world)
    as_stated = stated.model_dump(mode="json", exclude={"files"})
    key = store.digest(section.model_dump(mode="json"), as_stated, run, inputs)
    numbers = np.arange(len(listed.names))
    size = section.block_shots
    of_blocks = np.array_split(numbers, range(size, len(numbers), size))
    ids = [listed.columns["shot_id"][block].tolist() for block in of_blocks]
    parts = store.Parts(out, Reindex, key, ids)
    of_run = StatedRun(section, listed.detector, stated.bandwidth, stated.polarization)
    own_ends: dict[int, ShotEnd] = {}

    def make(piece: Piece) -> Reindex:
        rows = []
        for number in of_blocks[piece.block][piece.first : piece.end].tolist():
            tables, own_ends[number] = _take(listed, number, of_run)
            rows.append(tables)
        return Reindex.joined(rows)

    work = skeleton.PieceWork(make, LARGEST_PIECE, "shots")
    skeleton.run(parts, [len(block) for block in of_blocks], work, word, world)
    ends = _all_ends(listed, of_run, own_ends, world)
    counts = skeleton.outcomes(parts, Index.shots.outcome, Outcome, world)
    lattices = [one for end in ends for one in end.lattices]
    world.once(lambda: _log_left_out(log, listed, ends))
    if not any(one.outcome == AdoptOutcome.ADOPTED for one in lattices):
        todo = "Do they belong to reindex.cell and reindex.space_group?"
        names = ", ".join(map(str, files))
        raise FileError(names, "lattices that can be adopted", _in_words(lattices), todo)
    width = _bandwidth(ends)
    warnings = [
        *_torn_warnings(listed),
        *_doubt_warnings(ends, run),
        *shots.bandwidth_warnings(width, f"Set runs.{run}.lattices.bandwidth to {{}}."),
    ]
    parts.finish(
        world,
        config=section.model_dump(mode="json"),
        recording=config.recording.model_dump(mode="json"),
        lattices=as_stated,
        inputs=inputs,
        run=run,
        detector=listed.detector._asdict(),
        images=listed.images,
        length_sigma=None,
        spectra=None,
        bandwidth=None if width is None else width._asdict(),
        outcomes={name: n for name, n in counts.items() if n},
        warnings=warn(log, warnings),
    )
    world.once(lambda: _write(Path(out), section.model_dump(mode="json"), listed, ends))
    log.info("%d shots: %s", len(numbers), skeleton.in_words(counts))
    _log_lattices(log, listed, lattices, section.space_group)


def _take(listed: Listed, number: int, run: StatedRun) -> tuple[Reindex, ShotEnd]:
    """Return the rows of a shot, and how its lattices ended. Raises FileError for numbers that are
    none.
    """
    start = time.process_time()
    shot = listed.read(number)
    identity = {name: column[number] for name, column in listed.columns.items()}
    tables, end = take(shot, identity, run)
    tables.shots.seconds = np.array([time.process_time() - start])
    return tables, end


def _identities(files: list[Path], section: LatticesSection, world: World) -> list[str]:
    """Return the identities of the files of a run, shared among the ranks. Collective."""
    tables = [path.with_suffix(".refl") for path in files if path.suffix == ".expt"]
    paths = [*files, *tables, *([section.geometry] if section.geometry else [])]
    sizes = [path.stat().st_size if path.exists() else 0 for path in paths]
    own = {number: store.identity(paths[number]) for number in world.deal(sizes)}
    return world.gather_blocks(own)


def _all_ends(
    listed: Listed, run: StatedRun, own: dict[int, ShotEnd], world: World
) -> list[ShotEnd]:
    """Return how the lattices of all shots ended; shots of parts that were kept are read again.
    Collective.
    """
    known = {number for of_rank in world.gather(sorted(own)) for number in of_rank}
    missing = [number for number in range(len(listed.names)) if number not in known]
    for row in world.share(len(missing)):
        _, own[missing[row]] = _take(listed, missing[row], run)
    return world.gather_blocks(own)


def _bandwidth(ends: list[ShotEnd]) -> Bandwidth | None:
    """Return the bandwidth that all spots tell; None where none do."""
    sums = [end.bandwidth_sums for end in ends if end.bandwidth_sums is not None]
    return bandwidth.estimate(np.sum(sums, axis=0)) if sums else None


def _log_lattices(log: Logger, listed: Listed, lattices: list[Judged], space_group: str) -> None:
    """Log what was assumed of the files, to which axes lattices were brought, and how they
    ended.
    """
    for remark in listed.remarks:
        log.info("%s", remark)
    axes = (one.axes for one in lattices if one.outcome == AdoptOutcome.ADOPTED)
    for words in target_axes.in_words(axes, space_group):
        log.info("%s", words)
    log.info(
        "%d lattices: %s; no images: stages that need pixels leave the run out",
        len(lattices),
        _in_words(lattices),
    )


def _log_left_out(log: Logger, listed: Listed, ends: list[ShotEnd]) -> None:
    """Log the reasons of the first lattices that are not adopted."""
    left_out = [
        (number, one)
        for number, end in enumerate(ends)
        for one in end.lattices
        if one.outcome != AdoptOutcome.ADOPTED
    ]
    for number, one in left_out[:MAX_WARNINGS]:
        words = "%s, line %d: %s %s"
        log.warning(words, listed.file(number), one.line, one.outcome.name.lower(), one.why)
    if len(left_out) > MAX_WARNINGS:
        log.warning("%d more lattices are not adopted: see adopt.h5", len(left_out) - MAX_WARNINGS)


def _in_words(lattices: list[Judged]) -> str:
    """Return the number of lattices of each outcome."""
    counts = Counter(one.outcome for one in lattices)
    return skeleton.in_words({end.name.lower(): counts[end] for end in AdoptOutcome})


def _torn_warnings(listed: Listed) -> list[StageWarning]:
    """Return what to know of shots that have no end."""
    torn = listed.torn()
    if not torn:
        return []
    path, line = torn[0]
    return [
        StageWarning(
            f"shots without an end, which are left out; the first in {path}",
            f"{len(torn)}, from line {line}",
            "none",
            "Was the program stopped, or the file copied while it was written?",
        )
    ]


def _doubt_warnings(ends: list[ShotEnd], run: str) -> list[StageWarning]:
    """Return what to know of σ that can't be."""
    n_doubtful = sum(end.n_doubtful for end in ends)
    n_strong = sum(end.n_strong for end in ends)
    if n_doubtful <= MAX_DOUBTFUL * n_strong:
        return []
    return [
        StageWarning(
            "strong reflections have a σ smaller than the number of their photons allows",
            f"{n_doubtful} of {n_strong}",
            f"at most {MAX_DOUBTFUL:.0%}",
            f"Set runs.{run}.lattices.adu_per_photon to the gain of the detector.",
        )
    ]


def _write(out: Path, config: dict[str, Any], listed: Listed, ends: list[ShotEnd]) -> None:
    """Write adopt.h5."""
    shots_of = [number for number, end in enumerate(ends) for _ in end.lattices]
    lattices = [one for end in ends for one in end.lattices]
    table = Adopt.lines(
        line=[one.line for one in lattices],
        k=[one.k for one in lattices],
        shot_id=listed.columns["shot_id"][shots_of],
        experiment=[one.number for one in lattices],
        n_reflections=[one.n_reflections for one in lattices],
        n_agree=[one.n_agree for one in lattices],
        outcome=[one.outcome for one in lattices],
    )
    values = [column.tolist() for column in table.as_dict().values()]
    store.write(
        out.with_name("adopt.h5"),
        Adopt(lines=table),
        key=store.digest(store.identity(out), values),
        run=str(store.attributes(out, Reindex)["run"]),
        config=config,
        lattices=[str(path) for path in listed.files],
    )
