"""simulate: stills as an experiment would write them, block by block, each with its spectrum, and
the run's manifest.

What only a simulation knows goes to the group /truth of each file, which no stage of the analysis
opens.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from logging import Logger
from pathlib import Path

import h5py
import numpy as np

from spreadflow import __version__, build, products
from spreadflow.config import SimulateConfig
from spreadflow.errors import ConfigError
from spreadflow.io import checksums, images, nexus_writer, store
from spreadflow.io.spectra import Bank
from spreadflow.io.truth import FileTruth, TrueIntensities
from spreadflow.log import Progress, logger
from spreadflow.models import Spectrum
from spreadflow.parallel import World
from spreadflow.physics import anomalous, bragg
from spreadflow.products import KINDS
from spreadflow.recipes.intensities import from_model
from spreadflow.recipes.still import Simulator, Truth
from spreadflow.stages.factors import read_files


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
    bank = _bank(config)
    files = read_files(config.structure_factors, log)
    simulator = Simulator(config, files, bank)
    kinds = _kinds(config, run)
    n_shots = len(kinds)
    size = config.simulate.block_shots
    blocks = _blocks(shots, n_shots, size)
    if bank is not None:
        _log_bank(log, bank)
    folder = Path(out).parent / "images"
    paths = [folder / f"{run}_{block:05d}.nxs" for block in blocks]
    base = _base_key(config)
    own_checksums: dict[str, str] = {}
    with Progress(word, len(blocks), world) as progress:
        for row in world.share(len(blocks)):
            progress.at(row)
            path = paths[row]
            numbers = _numbers(blocks[row], size, n_shots)
            kinds_of_file = kinds[numbers]
            key = store.digest(base, path.name, kinds_of_file)
            if not _is_done(path, key):
                _write(path, simulator, run, numbers, kinds_of_file, key)
                world.count("shots", len(numbers))
            own_checksums[path.name] = store.checksum(path)
        progress.at(len(blocks))
    checksums = _united(world.gather(own_checksums))
    polarization = simulator.beam.polarization
    world.once(lambda: _finish(out, run, paths, polarization, checksums, shots is None))
    end_shot = _numbers(blocks[-1], size, n_shots).stop
    log.info("shots %d:%d in %d files", blocks[0] * size, end_shot, len(blocks))


def _bank(config: SimulateConfig) -> Bank | None:
    """Return the recorded spectra, None where pulses are drawn from the beam's own."""
    if config.beam.spectra is None:
        return None
    return Bank(config.beam.spectra, build.channels(config.beam), config.beam.photons)


def _log_bank(log: Logger, bank: Bank) -> None:
    """Log how many recorded spectra there are, and how much of them is left out."""
    lost = f"{bank.lost:.2g} of their photons lie beyond the channels"
    log.info("%s: %d spectra, %d left out; %s", bank.path, len(bank), bank.n_bad, lost)


def _united(checksums: list[dict[str, str]]) -> dict[str, str]:
    """Return the checksums of all ranks' files by name."""
    return {name: checksum for of_rank in checksums for name, checksum in of_rank.items()}


def _kinds(config: SimulateConfig, run: str) -> np.ndarray:
    """Return the kind of each shot of the run, (shot,) index into `KINDS`. Raises ConfigError where
    there is no shot.
    """
    counts = [getattr(config.shots, f"n_{kind}") for kind in KINDS]
    kinds = np.repeat(np.arange(len(KINDS)), counts)
    if len(kinds) == 0:
        todo = "Set n_single or another count."
        raise ConfigError(f"runs.{run}.simulate", "at least one shot", "none", todo)
    return kinds


def _base_key(config: SimulateConfig) -> str:
    """Return the part of a file's key that all files of a run share."""
    settings = config.model_dump(mode="json", exclude={"shots"})
    return store.digest(products.VERSION, __version__, settings, _inputs(config))


def _blocks(shots: str | None, n_shots: int, size: int) -> range:
    """Return the numbers of the files that hold shots `first:end` (None: all). Raises
    ConfigError.
    """
    if shots is None:
        return range(-(-n_shots // size))
    try:
        first, end = (
            int(word) if word else default
            for word, default in zip(shots.split(":"), (0, n_shots), strict=True)
        )
    except ValueError:
        first = end = -1
    if not 0 <= first < end <= n_shots:
        expected = f"FIRST:END with 0 <= FIRST < END <= {n_shots}"
        raise ConfigError("--shots", expected, repr(shots), "As in Python: 0:200.")
    return range(first // size, -(-end // size))


def _numbers(block: int, size: int, n_shots: int) -> range:
    """Return the numbers in the run of the shots of a file. size: shots of a full file."""
    first = block * size
    return range(first, min(first + size, n_shots))


def _inputs(config: SimulateConfig) -> list[str]:
    """Return identities of the files that the configuration names."""
    factors = config.structure_factors
    curves = [site.curve for site in factors.sites if site.curve not in anomalous.VALENCE]
    named = (factors.model, factors.mtz, config.beam.spectra, *curves)
    return [store.identity(path) for path in named if path is not None]


def _is_done(path: Path, key: str) -> bool:
    """Whether the file is there with this key; it is renamed into place once it is complete."""
    try:
        with h5py.File(path, "r", locking=False) as f:
            return f.attrs.get("key") == key
    except checksums.DAMAGES:
        return False


def _finish(
    out: Path,
    run: str,
    paths: list[Path],
    polarization: float,
    checksums: dict[str, str],
    is_whole: bool,
) -> None:
    """Write the manifest. Of a whole run, remove first the files of an older, longer one and those
    that a killed one left unfinished.
    """
    folder = paths[0].parent
    if is_whole:
        present = {*folder.glob("*.nxs"), *folder.glob(".*.tmp")}
        for path in present - set(paths):
            path.unlink()
    images.write_manifest(out, run, paths, polarization=polarization, checksums=checksums)


def _write(
    path: Path, simulator: Simulator, run: str, numbers: range, kinds: np.ndarray, key: str
) -> None:
    """Simulate a block of shots and write its file.

    numbers: of the shots in the run; kinds: (shot,) index into `KINDS`.
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
        beam_size_mm=simulator.recording.beam_size_mm,
    )
    truth = FileTruth(
        shots=lambda: _truth(ids, kinds, truths),
        detector=simulator.detector,
        curves=simulator.curves,
        intensities=_intensities(simulator, pulses),
    )
    nexus_writer.write(
        path,
        stills,
        instrument,
        truth=truth,
        compression=simulator.rendering.compression,
        attributes={"key": key},
    )


def _intensities(simulator: Simulator, pulses: list[Spectrum]) -> TrueIntensities:
    """Return the true intensities over the mean of some pulses."""
    photons = np.sum([pulse.photons for pulse in pulses], axis=0)
    cell = np.array(simulator.crystal.cell)
    of_crystal = from_model(simulator.factors, cell, simulator.crystal.space_group, photons)
    unique = of_crystal.unique
    sign = np.where(unique.friedel < 0, -1, 1)[:, None]
    return TrueIntensities(sign * unique.hkl, of_crystal.intensity)


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


def _truth(ids: list[int], kinds: np.ndarray, truths: list[list[Truth]]) -> products.Truth:
    """Return the truth of shots as their file has it. truths: the lattices of each shot."""
    lattices = [lattice for of_shot in truths for lattice in of_shot]
    n_lattices = [len(of_shot) for of_shot in truths]
    n_domains = [len(lattice.turns) for lattice in lattices]
    n_spots = [len(lattice.spots.panel) for lattice in lattices]
    rows = np.arange(len(lattices))
    n_others = len(bragg.SimulatedSpots._fields) - 1
    no_columns = np.empty((n_others, 0))
    no_spots = bragg.SimulatedSpots(np.empty((0, 3)), *no_columns)
    of_lattices = zip(no_spots, *(lattice.spots for lattice in lattices), strict=True)
    spots = bragg.SimulatedSpots(*(np.concatenate(columns) for columns in of_lattices))
    turns = [lattice.turns for lattice in lattices]
    crystals = [lattice.crystal for lattice in lattices]
    return products.Truth(
        shots=products.Truth.shots(shot_id=np.array(ids, dtype=np.uint64), kind=kinds),
        lattices=products.Truth.lattices(
            shot=np.repeat(np.arange(len(truths)), n_lattices),
            A=np.array([crystal.A for crystal in crystals]).reshape(-1, 3, 3),
            n_cells=np.array([crystal.n_cells for crystal in crystals]).reshape(-1, 3),
            eta_rad=np.array([crystal.eta_rad for crystal in crystals]),
            scale=np.array([lattice.scale for lattice in lattices]),
        ),
        domains=products.Truth.domains(
            lattice=np.repeat(rows, n_domains),
            rotation=np.concatenate([np.empty((0, 3, 3)), *turns]),
        ),
        reflections=products.Truth.reflections(lattice=np.repeat(rows, n_spots), **spots._asdict()),
    )
