"""ladder: the regression series on the pixels of an annulus, rung by rung on the same lattices.

Rung 00 reads every lattice before anything else; the blocks of the others are the parts of the annulus.
"""

import resource
import time
from logging import Logger
from pathlib import Path
from typing import Any

import numpy as np

from spreadflow.analysis.pixels import ladder, shoeboxes, solve
from spreadflow.analysis.pixels.likelihood import Noise
from spreadflow.config import LadderConfig
from spreadflow.errors import LatticeOutcome
from spreadflow.io import schema, store
from spreadflow.log import Progress, logger
from spreadflow.models import Mosaic, ReflectionFlag
from spreadflow.parallel import World
from spreadflow.physics import mosaic, rotation
from spreadflow.recipes import factors
from spreadflow.recipes import lattice as pixelfit
from spreadflow.stages import stage1
from spreadflow.units import DEG

IDENTITY = ("run", "shot_id", "k")
DRAW, TURN = 100, 101
"""purposes of random streams, of the model's domains and of its turns: none of the simulation's"""


def run(
    config: LadderConfig,
    *,
    annulus: Path,
    cells: Path,
    out: Path,
    world: World,
    word: str = "ladder",
) -> None:
    """Write <word>.h5 with its parts. cells: its accepted list is what rung 00 has to find in the annulus."""
    section = config.ladder
    log = logger(word, world)
    told = store.attributes(annulus, "annulus")
    keys = store.part_keys(annulus, "annulus")
    reading = _reading(annulus, keys, cells, world)
    log.info(
        "%(n_read)d of %(n_accepted)d accepted lattices read, memory grew by %(growth_percent).1f %%",
        reading,
    )
    ids, chosen = _blocks(annulus, keys, section.n_lattices)
    sections = [part.model_dump(mode="json") for part in (section, config.structure_factors)]
    inputs = [
        config.seed,
        config.beam.size_mm,
        *map(store.identity, [annulus, *factors.files(config.structure_factors)]),
    ]
    parts = store.Parts(out, word, store.digest(sections, inputs), ids)
    given = (
        []
        if all(map(parts.done, range(len(keys))))
        else stage1.given_of(config, annulus, told, word)
    )
    with Progress(word, len(keys), world) as progress:

        def make(n: int) -> dict:
            progress.at(n)
            columns = store.read_part(annulus, "annulus", n, keys[n])
            return _columns(config, columns, chosen[n], given, told["config"], log)

        parts.each(world, make)
        progress.at(len(keys))
    also = {name: told[name] for name in ("runs", "space_group", "detectors")}
    also |= {
        "rungs": list(ladder.RUNGS),
        "pictured": ladder.PICTURED,
        "n_modelled": int(sum(map(np.sum, chosen))),
    }
    parts.finish(world, config=section.model_dump(mode="json"), reading=reading, **also)


def _reading(annulus: Path, keys: list[str], cells: Path, world: World) -> dict[str, float]:
    """Rung 00: lattices with light and pixels, one by one, and how far memory grew after the first part of a rank."""
    found = {}
    peaks = []
    began = time.process_time()
    for n in world.share(len(keys)):
        columns = store.read_part(annulus, "annulus", n, keys[n])
        mine = []
        for i in range(len(columns["lattices/k"])):
            packed = pixelfit.unpack(columns, i)
            if (
                packed.spectrum.photons.sum() > 0
                and np.isfinite(packed.boxes.photons[packed.boxes.valid]).all()
            ):
                mine.append((int(columns["lattices/shot_id"][i]), int(columns["lattices/k"][i])))
        found[n] = mine
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    read = {one for mine in world.gather_blocks(found) for one in mine}
    growth = max(world.gather(100.0 * (peaks[-1] / peaks[0] - 1.0) if peaks else 0.0))
    seconds = sum(world.gather(time.process_time() - began)) / max(len(read), 1)
    of_cells = store.read(cells, "cells", ["lattices/shot_id", "lattices/k", "lattices/outcome"])
    kept = of_cells["lattices/outcome"] == LatticeOutcome.ACCEPTED
    accepted = zip(
        of_cells["lattices/shot_id"][kept].tolist(),
        of_cells["lattices/k"][kept].tolist(),
        strict=True,
    )
    counts = {
        "n_read": len(read),
        "n_others": len(read - set(accepted)),
        "n_accepted": int(kept.sum()),
    }
    return counts | {"growth_percent": growth, "seconds_per_lattice": seconds}


def _blocks(
    annulus: Path, keys: list[str], n_lattices: int | None
) -> tuple[list[list[int]], list[np.ndarray]]:
    """Of each part: shot_id and k of its lattices, and which of these (lattice,) get models.

    The first that have shoeboxes, `n_lattices` of them.
    """
    ids: list[list[int]] = []
    chosen: list[np.ndarray] = []
    for n, key in enumerate(keys):
        columns = store.read_part(
            annulus, "annulus", n, key, ["lattices/shot_id", "lattices/k", "reflections/lattice"]
        )
        both = columns["lattices/shot_id"].tolist(), columns["lattices/k"].tolist()
        ids.append([number for one in zip(*both, strict=True) for number in one])
        has = np.bincount(columns["reflections/lattice"], minlength=len(both[0])) > 0
        left = np.inf if n_lattices is None else n_lattices - sum(map(np.sum, chosen))
        chosen.append(has & (np.cumsum(has) <= left))
    return ids, chosen


def _columns(
    config: LadderConfig, columns: dict, chosen: np.ndarray, given: list, annulus: dict, log: Logger
) -> dict[str, np.ndarray]:
    """The part of one block. chosen: (lattice,) bool, to be modelled; annulus: its section."""
    pieces = []
    for i in range(len(columns["lattices/k"])):
        packed = pixelfit.unpack(columns, i)
        of = given[columns["lattices/run"][i]]
        identity = {name: columns[f"lattices/{name}"][i] for name in IDENTITY}
        rows: dict[str, list[dict]] = {"lattices": [identity | _flags(packed, annulus)]}
        pixels: dict[str, dict] = {}
        if chosen[i]:
            try:
                turned = packed._replace(A=_turn(config, identity) @ packed.A)
                modelled, pixels = _modelled(config, turned, of)
                rows |= modelled
            except (np.linalg.LinAlgError, ArithmeticError, ValueError) as error:
                log.warning(
                    "shot %016x lattice %d has no models: %s",
                    identity["shot_id"],
                    identity["k"],
                    error,
                )
        tables = {
            name: {key: np.array([row[key] for row in some]) for key in some[0]}
            for name, some in rows.items()
        }
        pieces.append(store.piece("ladder", tables | pixels))
    return store.joined("ladder", schema.FILES["ladder"], pieces)


def _flags(packed: pixelfit.PackedLattice, annulus: dict) -> dict[str, int]:
    """Rung 1: flagged shoeboxes, counted twice."""
    table = packed.reflections
    limits = {name: annulus[name] for name in ("d_min", "d_max")}
    told = table["d"], _strength(table), table["flags"]
    chosen = shoeboxes.chosen(*told, **limits, min_i_over_sigma=ladder.STRONG)
    return {"n_flagged": int(chosen.sum()), "n_counted": ladder.plain_count(*told, **limits)}


def _strength(table: dict) -> np.ndarray:
    return table["intensity"] / np.maximum(table["sigma"], 1e-9)


def _predicted(packed: pixelfit.PackedLattice) -> np.ndarray:
    """(box, 2) centroids, px."""
    return np.stack([packed.reflections["fast"], packed.reflections["slow"]], axis=1)


def _distances(
    packed: pixelfit.PackedLattice, of: pixelfit.RunModel, at: np.ndarray
) -> dict[str, Any]:
    """Sums over the list of reflections; at: (box, 2) centroids, px."""
    table = packed.reflections
    observed = np.stack([table["fast_obs"], table["slow_obs"]], axis=1).astype(np.float64)
    away = ladder.away_mm(at, observed, table["panel"], of.detector)[np.isfinite(table["fast_obs"])]
    radial, transverse = (away**2).sum(axis=0)
    return {"n": len(away), "radial": radial, "transverse": transverse}


def _pixels(z: np.ndarray, published: np.ndarray) -> dict[str, Any]:
    """Sums of deviations (pixel,)."""
    return {
        "n_pixels": len(z),
        "z": [z.sum(), z @ z],
        "z_published": [published.sum(), published @ published],
    }


def _modelled(
    config: LadderConfig, packed: pixelfit.PackedLattice, of: pixelfit.RunModel
) -> tuple[dict[str, list], dict]:
    """Rows of the rungs with a model, and the pixels of a sample. Raises what a lattice without solution raises."""
    noise = Noise(config.ladder.readout_photons, config.ladder.calibration_error)
    start = pixelfit.start(packed, _spread(config, packed), of)
    data, steps = ladder.run_rungs(start, of.space_group, packed.boxes, noise)
    rungs = []
    for name, step in steps.items():
        at = _predicted(packed) if name == "1" else ladder.centroids(step, data, packed.boxes.bbox)
        sums = _pixels(*ladder.deviations(step, data, noise)) | {"seconds": step.seconds}
        rungs.append(
            {
                "lattice": 0,
                "rung": list(ladder.RUNGS).index(name),
                **_distances(packed, of, at),
                **sums,
            }
        )
    strength = np.where(
        packed.reflections["flags"] & ReflectionFlag.FAILED == 0,
        _strength(packed.reflections),
        -np.inf,
    )
    flagged = strength >= ladder.STRONG
    compared = {
        "lattice": 0,
        "n_spots": flagged.sum(),
        "n_fell": ladder.falls(steps["1"], steps["2"], data, noise)[flagged].sum(),
        "planes": ladder.planes_apart(steps["3"].planes, steps["2"].planes),
        "pixels": ladder.pixels_apart(steps["3B"].bragg, steps["3A"].bragg),
    }
    return {"rungs": rungs, "compared": [compared]}, _sample(
        packed, data, steps, int(strength.argmax())
    )


def _turn(config: LadderConfig, identity: dict[str, int]) -> np.ndarray:
    """(3, 3) of `misset_deg` about an axis of the lattice's own."""
    rng = np.random.default_rng([config.seed, int(identity["shot_id"]), int(identity["k"]), TURN])
    axis = rng.standard_normal(3)
    return rotation.from_vector(config.ladder.misset_deg * DEG * axis / np.linalg.norm(axis))


def _spread(config: LadderConfig, packed: pixelfit.PackedLattice) -> Mosaic:
    """The same draw for every lattice, as wide as its mosaic spread, about its mean."""
    rng = np.random.default_rng([config.seed, 0, DRAW])
    drawn = mosaic.domain_rotations(rng, config.ladder.n_domains, packed.eta_rad)
    return mosaic.domains(drawn @ rotation.mean(drawn).T)


def _sample(
    packed: pixelfit.PackedLattice, data: solve.Data, steps: dict[str, ladder.Step], box: int
) -> dict[str, dict]:
    """Tables `samples` and `pixels`: data and models in one shoebox."""
    n = packed.boxes.n_pixels
    some = slice(data.start[box], data.start[box + 1])
    valid = packed.boxes.valid[n[:box].sum() : n[: box + 1].sum()]
    photons = np.full(len(valid), np.nan)
    model = np.zeros((len(valid), len(ladder.PICTURED)))
    photons[valid] = data.photons[some]
    model[valid] = np.stack([steps[name].model[some] for name in ladder.PICTURED], axis=1)
    row = {
        "lattice": 0,
        "hkl": packed.boxes.hkl[box],
        "bbox": packed.boxes.bbox[box],
        "first_pixel": 0,
    }
    return {
        "samples": {name: np.array([value]) for name, value in row.items()},
        "pixels": {"photons": photons, "model": model},
    }
