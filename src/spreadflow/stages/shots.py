"""The product of the shots of a run: what `index`, `reindex` and `adopt` write, block by block."""

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow.analysis.still import bandwidth
from spreadflow.analysis.still.bandwidth import Bandwidth
from spreadflow.analysis.still.prediction import MosaicLattice
from spreadflow.config import IndexSection, NoiseSection
from spreadflow.errors import Outcome, StageWarning
from spreadflow.io import store
from spreadflow.io.images import KeptArrays, Source
from spreadflow.io.pieces import Piece
from spreadflow.io.rows import refuse_doubles
from spreadflow.log import logger, warn
from spreadflow.parallel import World
from spreadflow.products import Children, Index
from spreadflow.recipes import advice
from spreadflow.recipes.shot import Result, index
from spreadflow.recipes.shot_rows import peaks, tables_of
from spreadflow.stages import blocks as skeleton

LARGEST_PIECE = 8
"""Shots that a rank works on before it writes them: a few seconds, which a killed stage loses."""

MAX_REFUSED = 0.05
"""Share of the lattices that may be refused without a word: chance makes one now and then."""

LEAST_BANDWIDTH = 5e-4
"""Relative bandwidth (FWHM) below which one energy is as good: spots move by less than a tenth of a
pixel.
"""

N_SIGMAS = 3.0
"""Standard deviations above which a bandwidth is believed."""

ABOUT_BANDWIDTH = "Write the manifest with --bandwidth {}, or files with spectra."
"""What to do about a bandwidth that images do not state."""


MAX_OTHER_DOMAINS = 0.2
"""Share of the lattices that may contradict the domains that are assumed without a word."""


class LatticeCounts(NamedTuple):
    """How the lattices of a run ended."""

    refused: int
    taken: int
    other_domains: int
    """those taken that have domains of their own size, not that assumed"""


class ShotProduct(NamedTuple):
    """A product of `index`, `reindex` or `adopt`."""

    path: Path
    tables: type[Index]
    """Index or Reindex"""
    word: str
    """stage that writes it"""
    length_sigma: float | None = None
    """relative standard deviation that the detector's distance gives all lengths of cells; None
    where it is not known
    """


def index_shots(
    product: ShotProduct,
    section: IndexSection,
    recording: NoiseSection,
    source: Source,
    inputs: dict[str, Any],
    world: World,
    supplied: Mapping[int, list[np.ndarray]] | None = None,
    *,
    is_refined: bool = True,
) -> None:
    """Write the product of the shots of a run, block by block. Collective.

    inputs: identities of what it is made from; supplied: number of a shot in its run → A (3, 3) of
    its lattices, where these are given and need not be searched for; is_refined: the detector is
    where it is said to be.
    """
    log = logger(product.word, world)
    config = section.model_dump(mode="json")
    recorded = recording.model_dump(mode="json")
    key = store.digest(config, recorded, inputs)
    of_blocks, parts = _blocks(product, source, section.block_shots, key)
    for remark in source.manifest.remarks:
        log.info("%s: %s", source.path, remark)

    kept = KeptArrays()

    def make(piece: Piece) -> Index:
        numbers = of_blocks[piece.block][piece.first : piece.end]
        tables = product.tables
        shots = [
            _index_shot(
                tables, section, recording, source, int(i), supplied, kept, is_refined=is_refined
            )
            for i in numbers
        ]
        for problem in source.problems:
            log.warning("%s", problem)
        source.problems.clear()
        return product.tables.joined(shots)

    n_shots = [len(numbers) for numbers in of_blocks]
    work = skeleton.PieceWork(make, LARGEST_PIECE, "shots")
    skeleton.run(parts, n_shots, work, product.word, world)
    counts = skeleton.outcomes(parts, Index.shots.outcome, Outcome, world)
    for line in _reasons(parts, world):
        log.info("%s", line)
    lattice_counts = _lattice_counts(parts, section, world)
    width = _bandwidth(parts, of_blocks, source, world)
    warnings = [
        *_outcome_warnings(counts, source.n_shots, section, product.tables.kind),
        *warnings_of(lattice_counts, section.domain_ang),
        *bandwidth_warnings(width, ABOUT_BANDWIDTH),
    ]
    parts.finish(
        world,
        config=config,
        recording=recorded,
        inputs=inputs,
        manifest=str(source.path),
        run=source.manifest.run,
        detector=source.detector._asdict(),
        length_sigma=product.length_sigma,
        spectra=None if source.spectra is None else source.spectra.identity,
        bandwidth=None if width is None else width._asdict(),
        outcomes={name: n for name, n in counts.items() if n},
        warnings=warn(log, warnings),
    )
    log.info(
        "%d shots: %s; %d lattices, %d refused",
        source.n_shots,
        skeleton.in_words(counts),
        lattice_counts.taken,
        lattice_counts.refused,
    )


def _blocks(
    product: ShotProduct, source: Source, size: int, key: str
) -> tuple[list[np.ndarray], store.Parts[Index]]:
    """Return the numbers of the shots of each block, of a size, and the parts that they make."""
    refuse_doubles(source.path, source.shots["shot_id"])
    of_blocks = np.array_split(np.arange(source.n_shots), range(size, source.n_shots, size))
    ids = [source.shots["shot_id"][block].tolist() for block in of_blocks]
    return of_blocks, store.Parts(product.path, product.tables, key, ids)


def _reasons(parts: store.Parts[Index], world: World) -> list[str]:
    """Return why shots were not indexed, and how many, the most frequent reasons first, a line
    each. Collective.
    """
    own = Counter[tuple[int, str]]()
    for block in range(world.rank, len(parts.keys), world.size):
        shots = parts.read(block, [Index.shots.outcome, Index.shots.reason]).shots
        own.update(advice.reasons_of(shots.outcome, shots.reason))
    reasons = sum(world.gather(own), Counter[tuple[int, str]]())
    return [
        f"{n_shots} {Outcome(outcome).name.lower()}: {reason}"
        for (outcome, reason), n_shots in reasons.most_common(advice.MOST_REASONS)
    ]


def _outcome_warnings(
    counts: Mapping[str, int], n_shots: int, section: IndexSection, word: str
) -> list[StageWarning]:
    """Return warnings of outcomes that ended more shots than were indexed, with what would help.

    counts: by name of the outcome in lower case. word: name of the section.
    """
    return [
        StageWarning(
            f"shots that ended as {outcome.name.lower().replace('_', ' ')}",
            f"{counts[outcome.name.lower()]} of {n_shots}",
            f"at most as many as are indexed, {counts.get('indexed', 0)}",
            advice.todo(outcome, section, word),
        )
        for outcome in advice.prevailing(counts)
    ]


def _lattice_counts(
    parts: store.Parts[Index], section: IndexSection, world: World
) -> LatticeCounts:
    """Return the counts of the lattices of all blocks. Collective."""
    own = np.zeros(len(LatticeCounts._fields), dtype=int)
    for block in range(world.rank, len(parts.keys), world.size):
        part = parts.read(block, [Index.shots.n_refused, Index.lattices.domain_ang])
        n_other_domains = np.count_nonzero(part.lattices.domain_ang != section.domain_ang)
        own += [part.shots.n_refused.sum(), len(part.lattices), n_other_domains]
    return LatticeCounts(*map(int, sum(world.gather(own))))


def warnings_of(counts: LatticeCounts, domain_ang: float) -> list[StageWarning]:
    """Return what to know before the lattices are trusted. domain_ang: edge of their domains that
    is assumed, Å.
    """
    warnings = []
    n_all = counts.refused + counts.taken
    if counts.refused > max(MAX_REFUSED * n_all, 1.0):
        warnings.append(
            StageWarning(
                "lattices that fitted spots were refused: no signal where they predict it",
                f"{counts.refused} of {n_all}",
                f"at most {MAX_REFUSED:.0%}",
                "Check the target cell, the distance and the beam centre of the headers.",
            )
        )
    if counts.other_domains > MAX_OTHER_DOMAINS * counts.taken:
        warnings.append(
            StageWarning(
                "lattices whose spots say that mosaic domains are not as large as assumed",
                f"{counts.other_domains} of {counts.taken}",
                f"domain_ang = {domain_ang:g} Å within a factor of 2.5",
                "Set domain_ang to the median estimate in the summary.",
            )
        )
    return warnings


def _bandwidth(
    parts: store.Parts[Index], of_blocks: list[np.ndarray], source: Source, world: World
) -> Bandwidth | None:
    """Return the bandwidth that the spots of shots without a spectrum show; None where all have
    one. Collective.

    of_blocks: numbers of the shots of each block.
    """
    sums = {}
    for block in range(world.rank, len(of_blocks), world.size):
        part = parts.read(block, [Index.spots, Index.lattices])
        lattices = part.lattices
        spots_of_lattices = Children(part.spots.lattice)
        sums[block] = np.zeros(bandwidth.N_SUMS)
        for n, row in enumerate(lattices.shot):
            spectrum = source.spectrum(int(of_blocks[block][row]))
            if spectrum is None:
                continue
            if len(spectrum.energies_ev) > 1:
                break  # the files of a run are alike
            spots = part.spots[spots_of_lattices[n]]
            sums[block] += bandwidth.sums(
                MosaicLattice(lattices.A[n], lattices.eta_rad[n], lattices.domain_ang[n]),
                spots.hkl,
                peaks(spots),
                spectrum,
                source.detector,
            )
    return bandwidth.estimate(world.sum(sums))


def bandwidth_warnings(width: Bandwidth | None, todo: str) -> list[StageWarning]:
    """Return what to know before the lattices are trusted. todo: what to do, with a place for the
    bandwidth.
    """
    if width is None or width.fwhm < max(LEAST_BANDWIDTH, N_SIGMAS * width.sigma):
        return []
    return [
        StageWarning(
            "the files state no spectrum and a single energy is assumed, but spots lie as with "
            "a relative bandwidth (FWHM) of",
            f"{width.fwhm:.2g} ± {width.sigma:.1g}",
            f"below {LEAST_BANDWIDTH:g}",
            todo.format(f"{width.fwhm:.2g}"),
        )
    ]


def _index_shot(
    product: type[Index],
    section: IndexSection,
    recording: NoiseSection,
    source: Source,
    number: int,
    supplied: Mapping[int, list[np.ndarray]] | None,
    kept: KeptArrays,
    *,
    is_refined: bool,
) -> Index:
    """Return all rows of a shot. kept: arrays that it is read into, and that nothing in these rows
    is part of.
    """
    start = time.process_time()
    lattices = None if supplied is None else supplied.get(number, [])
    if lattices == []:
        result = Result(Outcome.NOT_SUPPLIED, "no lattice is supplied for it")
    else:
        shot = source.read(number, kept)
        if isinstance(shot, Outcome):
            result = Result(shot, source.causes.pop(number, ""))
        else:
            result = index(
                shot,
                section,
                recording,
                source.detector,
                source.polarization,
                lattices,
                is_refined=is_refined,
            )
    identity = {name: column[number] for name, column in source.shots.items()}
    identity["seconds"] = time.process_time() - start
    return tables_of(result, identity, product)
