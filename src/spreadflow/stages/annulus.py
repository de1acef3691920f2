"""annulus, and wide: shoeboxes of accepted lattices between two resolutions, packed so that later stages open no image.

The two words are one stage: `wide` has a section that overlays `annulus`'s. Its blocks are those of `reindex`, less
those without an accepted lattice.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.pixels import shoeboxes
from spreadflow.analysis.still import integration
from spreadflow.config import AnnulusConfig, AnnulusSection, IndexSection, WideConfig
from spreadflow.errors import ConfigError, FileError, Outcome
from spreadflow.io import store
from spreadflow.io.images import Source
from spreadflow.log import Progress, logger
from spreadflow.models import Shot, Spectrum
from spreadflow.parallel import World
from spreadflow.stages.cells import accepted
from spreadflow.stages.index import opened

LATTICE = ("shot_id", "k", "A", "eta_rad", "domain_ang")


class Block(NamedTuple):
    """One part of a run's reindex product that holds accepted lattices."""

    run: int
    part: int
    key: str
    first_shot: int
    """number in the run of the part's first shot"""
    accepted: np.ndarray
    """(lattice of the part,) bool"""
    shot_ids: list[int]


def run(
    config: AnnulusConfig | WideConfig,
    *,
    images: list[Path],
    reindex: list[Path],
    cells: Path,
    out: Path,
    world: World,
    word: str = "annulus",
) -> None:
    """Write <word>.h5 with its parts. images, reindex: manifest and product of each run, in the same order."""
    section = getattr(config, word)
    log = logger(word, world)
    told = [store.attributes(path, "reindex") for path in reindex]
    sources = [
        opened(path, IndexSection.model_validate(of["config"]))
        for path, of in zip(images, told, strict=True)
    ]
    _check(section, word, max(of["config"]["d_min"] for of in told))
    blocks = [block for r, path in enumerate(reindex) for block in _blocks(r, path, cells)]
    if not blocks:
        raise FileError(
            cells, "accepted lattices", "none", "Look at cells.png; mind cells.mahalanobis_max."
        )
    channels = max(
        _channels(sources[b.run], reindex[b.run], b) for b in {b.run: b for b in blocks}.values()
    )
    inputs = [
        *(source.identity for source in sources),
        *(store.identity(p) for p in [*reindex, cells]),
    ]
    base = store.digest(section.model_dump(mode="json"), inputs)
    parts = store.Parts(out, word, base, [b.shot_ids for b in blocks])
    with Progress(word, len(blocks), world) as progress:

        def make(n: int) -> dict:
            progress.at(n)
            return _columns(
                section, blocks[n], sources[blocks[n].run], reindex[blocks[n].run], channels
            )

        parts.each(world, make)
        progress.at(len(blocks))
    parts.finish(
        world,
        config=section.model_dump(mode="json"),
        runs=[of["run"] for of in told],
        space_group=told[0]["config"]["space_group"],
        detectors=[of["detector"] for of in told],
        polarizations=[source.polarization for source in sources],
    )
    log.info("%d blocks of %d runs", len(blocks), len(told))


def _check(section: AnnulusSection, word: str, finest: float) -> None:
    """Raise ConfigError where reflections are wanted that reindex did not predict. finest: its d_min, Å."""
    if section.d_min < finest:
        expected = f"at least {finest:g} Å, to which reindex predicted reflections"
        raise ConfigError(
            f"{word}.d_min", expected, section.d_min, "Raise it, or lower reindex.d_min and rerun."
        )


def _blocks(r: int, reindex: Path, cells: Path) -> list[Block]:
    """The blocks of one run with accepted lattices."""
    keep = accepted(cells, reindex)
    out = []
    shot = 0
    row = 0
    for part, key in enumerate(store.part_keys(reindex, "reindex")):
        columns = store.read_part(reindex, "reindex", part, key, ["lattices/shot_id"])
        mine = keep[row : row + columns[""]["lattices"]]
        if mine.any():
            ids = [int(i) for i in np.unique(columns["lattices/shot_id"][mine])]
            out.append(Block(r, part, key, shot, mine, ids))
        shot = shot + columns[""]["shots"]
        row = row + columns[""]["lattices"]
    return out


def _read(source: Source, number: int, shot_id: int) -> Shot:
    """A shot that reindex could read. Raises FileError when it has changed since."""
    shot = source.read(number)
    if isinstance(shot, Outcome) or shot.shot_id != shot_id:
        found = shot.name.lower() if isinstance(shot, Outcome) else f"shot {shot.shot_id:016x}"
        raise FileError(
            f"shot {number} of the run",
            f"shot {shot_id:016x} as in reindex",
            found,
            "Rerun reindex.",
        )
    return shot


def _channels(source: Source, reindex: Path, block: Block) -> int:
    """Channels of the spectra of a run."""
    columns = store.read_part(
        reindex, "reindex", block.part, block.key, ["lattices/shot", "lattices/shot_id"]
    )
    row = int(np.argmax(block.accepted))
    shot = _read(
        source, block.first_shot + columns["lattices/shot"][row], columns["lattices/shot_id"][row]
    )
    return len(shot.spectrum.energies_ev)


def _columns(
    section: AnnulusSection, block: Block, source: Source, reindex: Path, channels: int
) -> dict:
    """The part of one block."""
    names = ["shots/shot_id", "lattices/", "reflections/"]
    columns = store.read_part(reindex, "reindex", block.part, block.key, names)
    lattices = np.flatnonzero(block.accepted)
    shots, spectrum = np.unique(columns["lattices/shot"][lattices], return_inverse=True)
    of_shot = columns["lattices/shot"][columns["reflections/lattice"]]
    chosen = _chosen(section, block, columns)
    order = np.concatenate([np.flatnonzero((of_shot == shot) & chosen) for shot in shots])
    packed = []
    spectra = []
    for shot in shots:
        taken = _read(source, block.first_shot + int(shot), int(columns["shots/shot_id"][shot]))
        every = of_shot == shot
        boxes = shoeboxes.Boxes(
            *(columns[f"reflections/{name}"][every] for name in shoeboxes.Boxes._fields)
        )
        how = {"border": section.border_px, "frame": integration.BORDER_PX}
        packed.append(shoeboxes.pack(taken.image, taken.mask, boxes, chosen[every], **how))
        spectra.append(_padded(taken.spectrum, channels))
    start = np.cumsum([0, *(len(p["photons"]) for p in packed)])
    out = {f"lattices/{name}": columns[f"lattices/{name}"][lattices] for name in LATTICE}
    out |= {"lattices/run": np.full(len(lattices), block.run), "lattices/spectrum": spectrum}
    out |= {
        name: column[order] for name, column in columns.items() if name.startswith("reflections/")
    }
    out["reflections/lattice"] = np.searchsorted(lattices, columns["reflections/lattice"][order])
    out["reflections/bbox"] = np.concatenate([p["bbox"] for p in packed])
    out["reflections/first_pixel"] = np.concatenate(
        [p["first_pixel"] + n for p, n in zip(packed, start, strict=False)]
    )
    out |= {
        f"pixels/{n}": np.concatenate([p[n] for p in packed])
        for n in ("photons", "valid", "foreground", "overlap")
    }
    out |= {"spectra/shot_id": columns["shots/shot_id"][shots]}
    return out | {
        f"spectra/{n}": np.array([getattr(s, n) for s in spectra]) for n in Spectrum._fields
    }


def _chosen(section: AnnulusSection, block: Block, columns: dict) -> np.ndarray:
    """(reflection of the part,) bool: of an accepted lattice and in the annulus."""
    return block.accepted[columns["reflections/lattice"]] & shoeboxes.chosen(
        columns["reflections/d"],
        columns["reflections/intensity"] / np.maximum(columns["reflections/sigma"], 1e-9),
        columns["reflections/flags"],
        d_min=section.d_min,
        d_max=section.d_max,
        min_i_over_sigma=section.min_i_over_sigma,
    )


def _padded(spectrum: Spectrum, channels: int) -> Spectrum:
    """The spectrum with empty channels at its end, so that all runs share one table."""
    more = channels - len(spectrum.energies_ev)
    if more < 0:
        raise FileError(
            "spectra",
            "as many channels in all shots of a run",
            f"{-more} more in one",
            "Split the run.",
        )
    energies = np.pad(np.asarray(spectrum.energies_ev), (0, more), mode="edge")
    return Spectrum(energies, np.pad(np.asarray(spectrum.photons), (0, more)))
