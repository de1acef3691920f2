"""index, and reindex: spots → lattices → refined lattices → predicted and integrated reflections, shot by shot.

The two words are one stage: `reindex` has a section that overlays `index`'s, and a refined geometry.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from spreadflow.config import IndexConfig, IndexSection, ReindexConfig
from spreadflow.errors import Outcome
from spreadflow.io import dials, schema, store
from spreadflow.io.images import Source
from spreadflow.log import Progress, logger
from spreadflow.models import Detector, Lattice
from spreadflow.parallel import World
from spreadflow.recipes.shot import Result, index

Told = Mapping[int, list[np.ndarray]]
"""number of a shot in its run → A (3, 3) of its lattices, Å⁻¹"""


def run(
    config: IndexConfig | ReindexConfig,
    *,
    images: Path,
    geometry: Path | None,
    out: Path,
    world: World,
    word: str = "index",
) -> None:
    """Write <word>.h5 with its parts. images: the run's manifest. geometry: .expt to use instead of the headers."""
    section = getattr(config, word)
    source = opened(images, section, None if geometry is None else dials.read_expt(geometry))
    inputs = {
        "images": source.identity,
        "geometry": None if geometry is None else store.identity(geometry),
    }
    produce(section, source, inputs=inputs, out=out, world=world, word=word, kind=word)


def opened(images: Path, section: IndexSection, detector: Detector | None = None) -> Source:
    """The shots of a manifest with the section's mask and trusted range; detector: instead of the headers'."""
    return Source(
        images, geometry=detector, mask=section.mask, saturation_photons=section.saturation_photons
    )


def produce(
    section: IndexSection,
    source: Source,
    *,
    inputs: dict,
    out: Path,
    world: World,
    word: str,
    kind: str,
    told: Told | None = None,
) -> None:
    """Write the product `out` of schema `kind`. told: the lattices, where they are not to be looked for. Collective."""
    log = logger(word, world)
    config_json = section.model_dump(mode="json")
    rows = np.array_split(
        np.arange(source.n_shots), range(section.block_shots, source.n_shots, section.block_shots)
    )
    parts = store.Parts(
        out,
        kind,
        store.digest(config_json, inputs),
        [source.shots["shot_id"][block].tolist() for block in rows],
    )
    with Progress(word, len(rows), world) as progress:

        def make(block: int) -> dict[str, np.ndarray]:
            progress.at(block)
            columns = store.joined(
                kind,
                schema.FILES[kind],
                [_timed(section, source, int(i), told) for i in rows[block]],
            )
            for problem in source.problems:
                log.warning("%s", problem)
            source.problems.clear()
            return columns

        parts.each(world, make)
        progress.at(len(rows))
    counts = _count(parts, len(rows), world)
    parts.finish(
        world,
        config=config_json,
        inputs=inputs,
        manifest=str(source.path),
        run=source.manifest.run,
        detector=source.detector._asdict(),
        outcomes=counts,
    )
    log.info("%d shots: %s", source.n_shots, ", ".join(f"{n} {name}" for name, n in counts.items()))


def _count(parts: store.Parts, n_blocks: int, world: World) -> dict[str, int]:
    """Shots per outcome over all blocks, finished now or in an earlier run. Collective."""
    mine = np.zeros(len(Outcome), dtype=int)
    for block in range(world.rank, n_blocks, world.size):
        mine += np.bincount(
            parts.read(block, ["shots/outcome"])["shots/outcome"], minlength=len(Outcome)
        )
    total = sum(world.gather(mine))
    return {end.name.lower(): int(total[end]) for end in Outcome if total[end]}


def _timed(section: IndexSection, source: Source, i: int, told: Told | None) -> dict:
    """All rows of shot i, as one piece for `store.joined`."""
    start = time.process_time()
    mine = None if told is None else told.get(i, [])
    shot = source.read(i) if mine != [] else Outcome.NOT_SUPPLIED
    if isinstance(shot, Outcome):
        result = Result(shot)
    else:
        result = index(shot, section, source.detector, source.polarization, mine)
    identity = {name: column[i] for name, column in source.shots.items()}
    return _rows(result, identity | {"seconds": time.process_time() - start})


def _rows(result: Result, identity: dict) -> dict:
    """The rows of one shot in every table of the product, as one piece for `store.joined`."""
    n_spots = 0 if result.spots is None else len(result.spots.fast)
    n_lattices = len(result.lattices)
    shot = identity | {"outcome": result.outcome, "mean_energy_ev": result.mean_energy_ev}
    shot |= {"n_spots": n_spots, "n_lattices": n_lattices}
    tables = {"shots": {name: np.array([value]) for name, value in shot.items()}}
    if result.spots is not None:
        of = np.full(n_spots, -1)
        hkl = np.zeros((n_spots, 3), dtype=np.int32)
        used = np.zeros(n_spots, dtype=bool)
        for k, one in enumerate(result.lattices):
            mine = one.hkl.any(axis=1)
            of[mine], hkl[mine], used[mine] = k, one.hkl[mine], one.used[mine]
        tables["spots"] = {"shot": np.zeros(n_spots, int), "lattice": of, "hkl": hkl, "used": used}
        tables["spots"] |= result.spots._asdict()
    if result.reflections is not None:
        names = [name for name in Lattice._fields if name not in ("hkl", "used")]
        tables["lattices"] = {
            name: np.array([getattr(one, name) for one in result.lattices]) for name in names
        }
        tables["lattices"] |= {"shot": np.zeros(n_lattices, int), "k": np.arange(n_lattices)}
        tables["lattices"] |= {"shot_id": np.full(n_lattices, identity["shot_id"])}
        tables["lattices"] |= {
            "n_indexed": np.array([one.hkl.any(axis=1).sum() for one in result.lattices])
        }
        tables["reflections"] = {
            "lattice": result.reflection_lattice
        } | result.reflections._asdict()
    return store.piece("index", tables)
