"""level0: where the detector is, from all lattices of `index`. Writes level0.expt, and
level0.fit.json beside it.

Two passes, so that spots are indexed and weighted once more where the detector truly is. Blocks are
`index`'s parts.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from spreadflow.analysis import geometry_fit
from spreadflow.analysis.geometry_fit import IndexedLattice, Joint
from spreadflow.analysis.still import prediction
from spreadflow.config import Level0Config, Level0Section
from spreadflow.errors import FileError
from spreadflow.io import dials, store
from spreadflow.io.images import Source
from spreadflow.log import Progress, logger
from spreadflow.models import Detector, Spectrum, Spots
from spreadflow.parallel import World
from spreadflow.units import wavelength

PASSES = 2
NAMES = ("shots/shot_id", "spots/", "lattices/")


def run(
    config: Level0Config, *, index: list[Path], out: Path, world: World, word: str = "level0"
) -> None:
    """Refine the detector that all runs of `index` share, or copy a frozen one."""
    section = config.level0
    log = logger(word, world)
    out = Path(out)
    told = [store.attributes(path, "index") for path in index]
    detector, space_group = _shared(index, told)
    if section.from_file:
        frozen = Path(section.from_file)
        dials.read_expt(frozen)
        world.once(lambda: _copy(frozen, out))
        log.info("detector taken from %s", frozen)
        return
    sources = [Source(of["manifest"]) for of in told]
    blocks = [
        (r, part, key)
        for r, path in enumerate(index)
        for part, key in enumerate(store.part_keys(path, "index"))
    ]
    spectra = [_Spectra(source) for source in sources]
    mine = {
        b: _lattices(index[blocks[b][0]], *blocks[b][1:], spectra[blocks[b][0]], section)
        for b in range(world.rank, len(blocks), world.size)
    }
    mine = _at_most(mine, section.max_lattices, world)

    def total(partials):
        return world.sum(partials, len(blocks))

    n_lattices, energy = total(
        {b: np.array([len(x), sum(map(_mean_energy, x))]) for b, x in mine.items()}
    )
    if n_lattices == 0:
        found = f"none with {section.min_reflections} spots or more"
        raise FileError(
            ", ".join(map(str, index)),
            "lattices",
            found,
            "Look at index.png; mind the target cell.",
        )
    free = [
        i
        for group in geometry_fit.GROUPS
        if group in section.refine
        for i in geometry_fit.GROUPS[group]
    ]
    joint = Joint(mine, detector, space_group, free, total, world.gather_blocks)
    with Progress(word, PASSES, world, "passes") as progress:
        for n in range(PASSES):
            joint.refine(section.outlier_probability)
            progress.at(n + 1)
    figures = {"n_lattices": int(n_lattices)} | joint.figures()
    beam = {"wavelength": wavelength(energy / n_lattices), "polarization": sources[0].polarization}
    world.once(lambda: _write(out, joint.placed(), beam, figures))
    log.info(
        "shift %s mm, distance %.4f mm, %d lattices",
        figures["shift_mm"],
        figures["distance_mm"],
        n_lattices,
    )


def _write(out: Path, detector: Detector, beam: dict[str, Any], figures: dict[str, Any]) -> None:
    with store.replacing(out.with_suffix(".fit.json")) as temporary:
        temporary.write_text(json.dumps(figures, indent=2) + "\n")
    dials.write_expt(out, detector, **beam)


def _copy(frozen: Path, out: Path) -> None:
    with store.replacing(out) as temporary:
        shutil.copyfile(frozen, temporary)


def _shared(index: list[Path], told: list[dict]) -> tuple[Detector, str]:
    """Return the detector and space group that all runs were indexed with. Raises FileError where
    they differ.
    """
    for path, of in zip(index, told, strict=True):
        if of["detector"] != told[0]["detector"]:
            todo = "Refine runs of one detector position together: level0.runs."
            raise FileError(path, f"the detector of {index[0]}", "another one", todo)
        if of["config"]["space_group"] != told[0]["config"]["space_group"]:
            raise FileError(
                path, "one space group", of["config"]["space_group"], "Index all runs alike."
            )
    return Detector.from_json(told[0]["detector"]), told[0]["config"]["space_group"]


class _Spectra:
    """Spectra of a run by shot_id."""

    def __init__(self, source: Source):
        self.source = source
        self.rows = {int(shot_id): i for i, shot_id in enumerate(source.shots["shot_id"])}

    def of(self, shot_id: int) -> Spectrum | None:
        row = self.rows.get(int(shot_id))
        if row is None:
            raise FileError(
                self.source.path, f"shot {shot_id}", "no such shot", "Index the run again."
            )
        return self.source.spectrum(row)


def _lattices(
    path: Path, part: int, key: str, spectra: _Spectra, section: Level0Section
) -> list[IndexedLattice]:
    """Return lattices of one block with enough spots and a readable spectrum."""
    columns = store.read_part(path, "index", part, key, NAMES)
    out = []
    for n, shot in enumerate(columns["lattices/shot"]):
        spectrum = spectra.of(columns["shots/shot_id"][shot])
        of = columns["spots/lattice"]
        at = np.flatnonzero((columns["spots/shot"] == shot) & ((of == n) | (of == -1)))
        hkl = columns["spots/hkl"][at]
        if spectrum is None or np.count_nonzero(hkl.any(axis=1)) < section.min_reflections:
            continue
        lattice = prediction.MosaicLattice(
            A=columns["lattices/A"][n],
            eta_rad=float(columns["lattices/eta_rad"][n]),
            domain_ang=float(columns["lattices/domain_ang"][n]),
        )
        spots = Spots(*(columns[f"spots/{name}"][at] for name in Spots._fields))
        out.append(IndexedLattice(lattice, hkl, spots, prediction.compress(spectrum)))
    return out


def _at_most(
    mine: dict[int, list[IndexedLattice]], limit: int | None, world: World
) -> dict[int, list[IndexedLattice]]:
    """Return the first `limit` lattices of all blocks."""
    if limit is None:
        return mine
    before = np.cumsum([0, *world.gather_blocks({b: len(found) for b, found in mine.items()})])
    return {b: found[: max(limit - int(before[b]), 0)] for b, found in mine.items()}


def _mean_energy(found: IndexedLattice) -> float:
    pulse = found.spectrum
    return float(pulse.energies_ev @ pulse.photons / pulse.photons.sum())
