"""simulate: stills as an experiment would write them, block by block, each with its spectrum, and
the run's manifest.

What only a simulation knows goes to the group /truth of each file, which no stage of the analysis
opens.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from spreadflow import __version__, build
from spreadflow.config import SimulateConfig
from spreadflow.errors import ConfigError
from spreadflow.io import factor_files, images, nexus_writer, schema, store
from spreadflow.io.schema import KINDS
from spreadflow.io.spectra import Bank
from spreadflow.io.truth import FileTruth
from spreadflow.log import Progress, logger
from spreadflow.parallel import World
from spreadflow.physics import anomalous, bragg
from spreadflow.recipes.still import Simulator, Truth


def run(
    config: SimulateConfig,
    *,
    run: str,
    out: Path,
    world: World,
    shots: str | None = None,
    word: str = "simulate",
) -> None:
    """Write the image files of a run beside `out`, and `out`, their manifest.

    shots: `first:end` of the run's shots; the files that hold any of them are made, whole, as the
    whole run would make them, and no other file is touched.
    """
    log = logger(word, world)
    energies = build.channels(config.beam)
    bank = None
    if config.beam.spectra is not None:
        bank = Bank(config.beam.spectra, energies, config.beam.photons)
    files = factor_files.read(config.structure_factors)
    simulator = Simulator(config, files, bank)
    counts = [getattr(config.shots, f"n_{kind}") for kind in KINDS]
    kinds = np.repeat(np.arange(len(KINDS)), counts)
    if len(kinds) == 0:
        raise ConfigError(
            f"runs.{run}.simulate", "at least one shot", "none", "Set n_single or another count."
        )
    size = config.simulate.block_shots
    blocks = _blocks(shots, len(kinds), size)
    if bank is not None:
        lost = f"{bank.lost:.2g} of their photons lie beyond the channels"
        log.info("%s: %d spectra, %d left out; %s", bank.path, len(bank), bank.n_bad, lost)
    paths = {b: Path(out).parent / "images" / f"{run}_{b:05d}.nxs" for b in blocks}
    base = store.digest(
        schema.VERSION,
        __version__,
        config.model_dump(mode="json", exclude={"shots"}),
        _inputs(config),
    )
    own_checksums: dict[str, str] = {}
    with Progress(word, len(blocks), world) as progress:
        for done in world.share(len(blocks)):
            progress.at(done)
            b = blocks[done]
            numbers = range(b * size, min((b + 1) * size, len(kinds)))
            key = store.digest(base, paths[b].name, kinds[numbers])
            if not _is_done(paths[b], key):
                _write(paths[b], simulator, run, numbers, kinds[numbers], key)
            own_checksums[paths[b].name] = store.checksum(paths[b])
        progress.at(len(blocks))
    checksums = {
        name: checksum for part in world.gather(own_checksums) for name, checksum in part.items()
    }
    world.once(
        lambda: _finish(
            out, run, list(paths.values()), simulator.beam.polarization, checksums, shots is None
        )
    )
    last = min((blocks[-1] + 1) * size, len(kinds))
    log.info("shots %d:%d in %d files", blocks[0] * size, last, len(blocks))


def _blocks(shots: str | None, n_shots: int, size: int) -> range:
    """Return numbers of the files that hold shots `first:end` (None = all). Raises ConfigError."""
    if shots is None:
        return range(-(-n_shots // size))
    try:
        first, end = (
            int(end) if end else default
            for end, default in zip(shots.split(":"), (0, n_shots), strict=True)
        )
    except ValueError:
        first = end = -1
    if not 0 <= first < end <= n_shots:
        expected = f"FIRST:END with 0 <= FIRST < END <= {n_shots}"
        raise ConfigError("--shots", expected, repr(shots), "As in Python: 0:200.")
    return range(first // size, -(-end // size))


def _inputs(config: SimulateConfig) -> list[str]:
    """Return identities of the files the configuration names."""
    factors = config.structure_factors
    curves = [site.curve for site in factors.sites if site.curve not in anomalous.VALENCE]
    named = (factors.model, factors.mtz, config.beam.spectra, *curves)
    return [store.identity(path) for path in named if path is not None]


def _is_done(path: Path, key: str) -> bool:
    """Whether the file is there and of this key (it is renamed into place when it is complete)."""
    try:
        with h5py.File(path, "r") as f:
            return f.attrs.get("key") == key
    except OSError:
        return False


def _finish(
    out: Path,
    run: str,
    paths: list[Path],
    polarization: float,
    checksums: dict[str, str],
    is_whole: bool,
) -> None:
    """Write the manifest; of a whole run, remove files of an older, longer one and what a killed
    one was writing.
    """
    folder = paths[0].parent
    for old in {*folder.glob("*.nxs"), *folder.glob(".*.tmp")} - set(paths) if is_whole else ():
        old.unlink()
    images.write_manifest(out, run, paths, polarization=polarization, checksums=checksums)


def _write(
    path: Path, simulator: Simulator, run: str, numbers: range, kinds: np.ndarray, key: str
) -> None:
    """Simulate a block of shots, `numbers` in the run and of these kinds (numbers too), and write
    its file.
    """
    ids = [images.shot_id(run, path.name, frame) for frame in range(len(kinds))]
    pulses = [
        simulator.pulse(shot_id, number) for shot_id, number in zip(ids, numbers, strict=True)
    ]
    truths: list[list[Truth]] = []

    def exposures() -> Iterator[Callable[[], np.ndarray]]:
        for shot_id, kind, pulse in zip(ids, kinds, pulses, strict=True):
            image, lattices = simulator.exposure(shot_id, KINDS[kind], pulse)
            truths.append(lattices)
            work = partial(simulator.frame, shot_id, image)
            del image
            yield work
            del work

    stills = nexus_writer.Stills(
        images=one_behind(exposures()),
        shot_ids=np.array(ids, dtype=np.uint64),
        energies_ev=simulator.energies,
        photons=np.array([pulse.photons for pulse in pulses]),
        corrupt=np.flatnonzero(kinds == KINDS.index("unreadable")).tolist(),
    )
    instrument = nexus_writer.Instrument(
        detector=simulator.header,
        saturation_adu=simulator.section.saturation_adu,
        offset_adu=simulator.section.offset_adu,
        adu_per_photon=simulator.section.quantum_gain,
        mask=simulator.good,
        polarization=simulator.beam.polarization,
        beam_size_mm=simulator.beam.size_mm,
    )
    truth = FileTruth(
        columns=lambda: _columns(ids, kinds, truths),
        detector=simulator.detector,
        curves=simulator.curves,
    )
    nexus_writer.write(
        path,
        stills,
        instrument,
        truth=truth,
        compression=simulator.rendering.compression,
        attributes={"key": key},
    )


def one_behind(works: Iterable[Callable[[], np.ndarray]]) -> Iterator[np.ndarray]:
    """Yield what each of `works` returns, in order: each is done in a thread while the next one is
    taken from `works`.

    At most one waits and one is done ahead of the caller.
    """
    with ThreadPoolExecutor(1) as thread:
        last: Future[np.ndarray] | None = None
        for work in works:
            done = last
            last = thread.submit(work)
            del work  # whoever keeps it keeps its image
            if done is not None:
                yield done.result()
            del done
        if last is not None:
            yield last.result()


def _columns(ids: list[int], kinds: np.ndarray, truths: list[list[Truth]]) -> dict[str, np.ndarray]:
    """Return columns of schema 'truth' of shots and the lattices of each."""
    every = [lattice for lattices in truths for lattice in lattices]
    none = bragg.SimulatedSpots(
        np.empty((0, 3)), *np.empty((len(bragg.SimulatedSpots._fields) - 1, 0))
    )
    spots = bragg.SimulatedSpots(
        *(np.concatenate(columns) for columns in zip(none, *(t.spots for t in every), strict=True))
    )
    return {
        "shots/shot_id": np.array(ids, dtype=np.uint64),
        "shots/kind": kinds,
        "lattices/shot": np.repeat(np.arange(len(truths)), [len(lattices) for lattices in truths]),
        "lattices/A": np.array([t.crystal.A for t in every]).reshape(-1, 3, 3),
        "lattices/n_cells": np.array([t.crystal.n_cells for t in every]).reshape(-1, 3),
        "lattices/eta_rad": np.array([t.crystal.eta_rad for t in every]),
        "lattices/scale": np.array([t.scale for t in every]),
        "domains/lattice": np.repeat(np.arange(len(every)), [len(t.turns) for t in every]),
        "domains/rotation": np.concatenate([np.empty((0, 3, 3)), *(t.turns for t in every)]),
        "reflections/lattice": np.repeat(
            np.arange(len(every)), [len(t.spots.panel) for t in every]
        ),
        **{f"reflections/{name}": column for name, column in spots._asdict().items()},
    }
