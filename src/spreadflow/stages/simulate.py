"""simulate: stills as an experiment would write them, block by block, each with its spectrum, and the run's manifest.

What only a simulation knows goes to the group /truth of each file, which no stage of the analysis opens.
"""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from spreadflow import __version__
from spreadflow.config import StageConfig
from spreadflow.errors import ConfigError
from spreadflow.io import images, nexus, schema, store
from spreadflow.io.schema import KINDS
from spreadflow.log import Progress, logger
from spreadflow.parallel import World
from spreadflow.physics import anomalous, bragg
from spreadflow.stages.still import Simulator, Truth


def run(config: StageConfig, *, run: str, out: Path, world: World, word: str = "simulate") -> None:
    """Write the image files of a run beside `out`, and `out`, their manifest."""
    log, simulator = logger(word, world), Simulator(config)
    counts = [getattr(config.shots, f"n_{kind}") for kind in KINDS]
    kinds = np.repeat(np.arange(len(KINDS)), counts)
    if len(kinds) == 0:
        raise ConfigError(f"runs.{run}.simulate", "at least one shot", "none", "Set n_single or another count.")
    blocks = np.split(kinds, range(config.simulate.block_shots, len(kinds), config.simulate.block_shots))
    paths = [Path(out).parent / "images" / f"{run}_{b:05d}.nxs" for b in range(len(blocks))]
    base = store.digest(schema.VERSION, __version__, config.model_dump(mode="json", exclude={"shots"}), _inputs(config))
    mine: dict[str, str] = {}
    with Progress(word, len(blocks), world) as progress:
        for b in world.share(len(blocks)):
            progress.at(b)
            key = store.digest(base, paths[b].name, blocks[b])
            if not _is_done(paths[b], key):
                _write(paths[b], simulator, run, blocks[b], key)
            mine[paths[b].name] = store.checksum(paths[b])
        progress.at(len(blocks))
    checksums = {name: checksum for part in world.gather(mine) for name, checksum in part.items()}
    world.once(lambda: _finish(out, run, paths, simulator.beam.polarization, checksums))
    log.info("%d shots in %d files", len(kinds), len(blocks))


def _inputs(config: StageConfig) -> list[str]:
    """Identities of the files the configuration names."""
    curves = [site.curve for site in config.crystal.sites if site.curve not in anomalous.VALENCE]
    return [store.identity(path) for path in (config.crystal.model, *curves) if path is not None]


def _is_done(path: Path, key: str) -> bool:
    """Whether the file is there and of this key (it is renamed into place when it is complete)."""
    try:
        with h5py.File(path, "r") as f:
            return f.attrs.get("key") == key
    except OSError:
        return False


def _finish(out: Path, run: str, paths: list[Path], polarization: float, checksums: dict[str, str]) -> None:
    """Remove image files of an older, longer run and what a killed run was writing; write the manifest."""
    folder = paths[0].parent
    for old in {*folder.glob("*.nxs"), *folder.glob(".*.tmp")} - set(paths):
        old.unlink()
    images.write_manifest(out, run, paths, polarization=polarization, checksums=checksums)


def _write(path: Path, simulator: Simulator, run: str, kinds: np.ndarray, key: str) -> None:
    """Simulate a block of shots of these kinds (numbers) and write its file."""
    ids = [images.shot_id(run, path.name, frame) for frame in range(len(kinds))]
    truths: list[Truth] = []

    def frames() -> Iterator[np.ndarray]:
        for shot_id, kind in zip(ids, kinds, strict=True):
            adu, truth = simulator.shot(shot_id, KINDS[kind])
            truths.append(truth)
            yield adu

    nexus.write(
        path,
        frames(),
        shot_ids=np.array(ids, dtype=np.uint64),
        detector=simulator.header,
        energies_ev=simulator.energies,
        photons=np.array([simulator.pulse(i).photons for i in ids]),
        mask=simulator.good,
        saturation_adu=simulator.section.saturation_adu,
        offset_adu=simulator.section.offset_adu,
        polarization=simulator.beam.polarization,
        beam_size_mm=simulator.beam.size_mm,
        compression=simulator.how.compression,
        truth=lambda: _columns(simulator, ids, kinds, truths),
        true_detector=simulator.detector,
        corrupt=np.flatnonzero(kinds == KINDS.index("unreadable")).tolist(),
        attributes={"key": key},
    )


def _columns(simulator: Simulator, ids: list[int], kinds: np.ndarray, truths: list[Truth]) -> dict[str, np.ndarray]:
    """Columns of schema 'truth'."""
    matrices, spots = [A for true in truths for A in true.matrices], [s for true in truths for s in true.spots]
    none = bragg.Spots(*np.empty((len(bragg.Spots._fields), 0)))
    joined = bragg.Spots(*(np.concatenate(columns) for columns in zip(none, *spots, strict=True)))
    reflections = joined._asdict() | {"hkl": np.empty((0, 3))}
    node = reflections.pop("node").astype(int)
    if len(node):
        reflections["hkl"] = simulator.factors.hkl[node]
    reflections["lattice"] = np.repeat(np.arange(len(spots)), [len(s.node) for s in spots])
    shots = {"shots/shot_id": np.array(ids, dtype=np.uint64), "shots/kind": kinds}
    shot_of = np.repeat(np.arange(len(truths)), [len(true.matrices) for true in truths])
    lattices = {"lattices/shot": shot_of, "lattices/A": np.array(matrices).reshape(-1, 3, 3)}
    return shots | lattices | {f"reflections/{name}": column for name, column in reflections.items()}
