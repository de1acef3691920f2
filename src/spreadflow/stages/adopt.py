"""adopt: lattices that somebody else indexed, told by a spec file, take the place of those `reindex` would find.

Each line of the spec file ends in one `AdoptOutcome`. A is kept; the detector is that of the experiments; spots, mosaic
spread and integrated reflections are made from the images as in `reindex`. Writes <run>/reindex.h5 and, beside it,
adopt.h5: what became of the lines.
"""

from collections import Counter
from logging import Logger
from pathlib import Path

import numpy as np

from spreadflow.config import IndexSection, ReindexConfig
from spreadflow.errors import AdoptOutcome, FileError, Outcome
from spreadflow.io import dials, store
from spreadflow.io import spec as io_spec
from spreadflow.io.images import Source
from spreadflow.io.spec import Pair
from spreadflow.log import Progress, logger
from spreadflow.models import Detector
from spreadflow.parallel import World
from spreadflow.recipes.shot import is_new
from spreadflow.stages import index
from spreadflow.stages.pairs import Line, Reader, unmistakable

BLOCK = 64
"""lines a rank reads at a time"""
APART_PX = 0.01
"""detectors whose panels are nearer than this are one"""
MOST_WARNINGS = 20


def run(
    config: ReindexConfig, *, images: Path, spec: Path, out: Path, world: World, word: str = "adopt"
) -> None:
    """Write `out`, a product of reindex, and adopt.h5. images: the run's manifest. spec: pairs of .expt and .refl."""
    section = config.reindex
    log = logger(word, world)
    told = io_spec.read(spec)
    detector = _detector(spec, told)
    source = index.opened(images, section, detector)
    lines = _read(section, source, told, world, word)
    _check_detectors(spec, told, lines)
    if world.rank == 0:
        _warn(log, told, lines)
    if not any(line.A is not None for line in lines):
        todo = "Do the experiments belong to these images and to reindex.cell?"
        raise FileError(spec, "lattices that can be adopted", _counts(lines), todo)
    lattices: dict[int, list[np.ndarray]] = {}
    for line in lines:
        if line.A is not None:
            lattices.setdefault(line.shot, []).append(line.A)
    known = {
        "geometry": store.digest(detector._asdict()),
        "lattices": store.digest(sorted(lattices.items())),
    }
    inputs = {"images": source.identity} | known
    index.produce(
        section,
        source,
        inputs=inputs,
        out=out,
        world=world,
        word=word,
        kind="reindex",
        told=lattices,
    )
    world.once(lambda: _write(Path(out), section, source, told, lines, log))


def _detector(path: Path, told: list[Pair]) -> Detector:
    """That of the first experiment that can be read."""
    why = ""
    for pair in told:
        try:
            return dials.ExperimentList(pair.expt)[pair.experiment or 0].detector
        except FileError as error:
            why = why or str(error)
    raise FileError(path, "an experiment that can be read", why, "Correct the paths.")


def _read(
    section: IndexSection, source: Source, told: list[Pair], world: World, word: str
) -> list[Line]:
    """All lines, read by all ranks and judged; lattices told twice are DUPLICATE. Collective."""
    blocks = [told[n : n + BLOCK] for n in range(0, len(told), BLOCK)]
    reader = Reader(section, source)
    mine = dict[int, list[Line]]()
    with Progress(word, len(blocks), world, "blocks of lines") as progress:
        for n in world.share(len(blocks)):
            progress.at(n)
            mine[n] = [reader.read(pair) for pair in blocks[n]]
    lines = unmistakable([line for block in world.gather_blocks(mine) for line in block])
    before: dict[int, list[np.ndarray]] = {}
    for n, line in enumerate(lines):
        if line.A is not None:
            others = before.setdefault(line.shot, [])
            if is_new(line.A, others, section):
                others.append(line.A)
            else:
                lines[n] = line._replace(outcome=AdoptOutcome.DUPLICATE, A=None)
    return lines


def _check_detectors(path: Path, told: list[Pair], lines: list[Line]) -> None:
    """Raise FileError for the first line with another detector."""
    for pair, line in zip(told, lines, strict=True):
        if line.apart_px > APART_PX:
            found = f"a panel {line.apart_px:.3g} px from that of the first"
            todo = "Make one run, with its own spec file, for each detector."
            raise FileError(
                f"{path}, line {pair.line}", "the same detector in all experiments", found, todo
            )


def _warn(log: Logger, told: list[Pair], lines: list[Line]) -> None:
    """What the first of the lines that are not adopted lack, and what is not read."""
    if n := sum(pair.has_spectrum for pair in told):
        log.warning(
            "%d lines name a spectrum (.lam), which is not read: spectra are those of the images", n
        )
    bad = [
        (pair, line)
        for pair, line in zip(told, lines, strict=True)
        if line.outcome != AdoptOutcome.ADOPTED
    ]
    for pair, line in bad[:MOST_WARNINGS]:
        log.warning("line %d: %s %s", pair.line, line.outcome.name.lower(), line.why)
    if len(bad) > MOST_WARNINGS:
        log.warning("%d more lines are not adopted: see adopt.h5", len(bad) - MOST_WARNINGS)


def _counts(lines: list[Line]) -> str:
    counts = Counter(line.outcome for line in lines)
    return ", ".join(f"{counts[end]} {end.name.lower()}" for end in AdoptOutcome if counts[end])


def _write(
    out: Path,
    section: IndexSection,
    source: Source,
    told: list[Pair],
    lines: list[Line],
    log: Logger,
) -> None:
    """adopt.h5, now that the shots have ended."""
    ended = store.read(out, "reindex", ["shots/outcome"])["shots/outcome"]
    lost = [line.A is not None and ended[line.shot] != Outcome.INDEXED for line in lines]
    ends = [
        line._replace(outcome=AdoptOutcome.LOST_SHOT) if gone else line
        for line, gone in zip(lines, lost, strict=True)
    ]
    seen = Counter[int]()
    k = np.full(len(ends), -1)
    for n, line in enumerate(ends):
        if line.outcome == AdoptOutcome.ADOPTED:
            k[n] = seen[line.shot]
            seen[line.shot] += 1
    ids = np.append(source.shots["shot_id"], np.uint64(0))  # the last is that of shot -1
    rows = {"lines/line": np.array([pair.line for pair in told]), "lines/k": k}
    rows |= {"lines/shot_id": ids[[line.shot for line in ends]]}
    for name in ("experiment", "n_reflections", "n_agree", "outcome"):
        rows[f"lines/{name}"] = np.array([getattr(line, name) for line in ends])
    about = {"run": source.manifest.run, "config": section.model_dump(mode="json")}
    key = store.digest(store.identity(out), [column.tolist() for column in rows.values()])
    store.write(out.with_name("adopt.h5"), "adopt", rows, key=key, **about)
    log.info("%d lines: %s", len(ends), _counts(ends))
