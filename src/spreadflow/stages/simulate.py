"""simulate: stills as an experiment would write them, block by block, each with its spectrum, and the run's manifest.

What only a simulation knows goes to the group /truth of each file, which no stage of the analysis opens.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from spreadflow import __version__, build
from spreadflow.config import Site, StageConfig
from spreadflow.errors import ConfigError
from spreadflow.io import images, nexus, schema, store, structure
from spreadflow.log import Progress, logger
from spreadflow.models import Crystal, Spectrum
from spreadflow.parallel import World
from spreadflow.physics import anomalous, bragg, geometry, lattice, phantom, response, rotation, spectrum
from spreadflow.physics.background import background
from spreadflow.physics.structure_factors import Atoms, StructureFactors, structure_factors
from spreadflow.units import wavelength

KINDS = ("single", "blank", "double", "saturated", "unreadable")
"""kinds of shots in the order a run holds them; `shots/kind` of the truth is the number"""
N_LATTICES = {"blank": 0, "double": 2}
"""where it is not one"""
FLOODED = 0.05
"""fraction of the pixels of a saturated shot that its pulse drives beyond the trusted range"""
SPECTRUM, ORIENTATION, NOISE, GARBAGE, DOMAINS, GAIN = range(6)
"""purposes of random streams; the last two do not depend on the shot"""


class Truth(NamedTuple):
    """What is true of a simulated shot."""

    matrices: list[np.ndarray]
    """A of each lattice, the mean over its mosaic domains"""
    spots: list[bragg.Spots]
    """of each lattice"""


def run(config: StageConfig, *, run: str, out: Path, world: World, word: str = "simulate") -> None:
    """Write the image files of a run beside `out`, and `out`, their manifest."""
    assert config.simulate is not None and config.shots is not None
    log, simulator = logger(word, world), Simulator(config)
    counts = [getattr(config.shots, f"n_{kind}") for kind in KINDS]
    kinds = np.repeat(np.arange(len(KINDS)), counts)
    if len(kinds) == 0:
        raise ConfigError(f"runs.{run}.simulate", "at least one shot", "none", "Set n_single or another count.")
    blocks = np.split(kinds, range(config.simulate.block_shots, len(kinds), config.simulate.block_shots))
    paths = [Path(out).parent / "images" / f"{run}_{b:05d}.nxs" for b in range(len(blocks))]
    base = store.digest(schema.VERSION, __version__, config.model_dump(mode="json", exclude={"shots"}), _inputs(config))
    with Progress(word, len(blocks), world) as progress:
        for b in world.share(len(blocks)):
            progress.at(b)
            key = store.digest(base, paths[b].name, blocks[b])
            if not _is_done(paths[b], key):
                simulator.write(paths[b], run, blocks[b], key)
        world.barrier()
        progress.at(len(blocks))
    world.once(lambda: _finish(out, run, paths))
    log.info("%d shots in %d files", len(kinds), len(blocks))


def _inputs(config: StageConfig) -> list[str]:
    """Identities of the files the configuration names."""
    assert config.crystal is not None
    curves = [site.curve for site in config.crystal.sites if site.curve not in anomalous.VALENCE]
    return [store.identity(path) for path in (config.crystal.model, *curves) if path is not None]


def _is_done(path: Path, key: str) -> bool:
    """Whether the file is there and of this key (it is renamed into place when it is complete)."""
    try:
        with h5py.File(path, "r") as f:
            return f.attrs.get("key") == key
    except OSError:
        return False


def _finish(out: Path, run: str, paths: list[Path]) -> None:
    """Remove image files of an older, longer run and write the manifest."""
    for old in set(paths[0].parent.glob("*.nxs")) - set(paths):
        old.unlink()
    images.write_manifest(out, run, paths)


class Simulator:
    """What all shots of a run have in common, each part made when it is first needed."""

    def __init__(self, config: StageConfig):
        assert config.seed is not None and config.crystal and config.beam and config.detector and config.simulate
        self.seed, self.crystal, self.beam = config.seed, config.crystal, config.beam
        self.section, self.how = config.detector, config.simulate
        self.detector = build.detector(self.section)
        self.header = geometry.shifted(self.detector, *(-error for error in self.section.header_error_mm))
        self.good = build.good_pixels(self.section, self.detector.n_panels)
        self.energies, self.cell = build.channels(self.beam), build.cell(self.crystal)

    def rng(self, purpose: int, shot_id: int = 0) -> np.random.Generator:
        """The random stream of (seed, shot, purpose): the same on any rank."""
        return np.random.default_rng([self.seed, shot_id, purpose])

    @cached_property
    def factors(self) -> StructureFactors:
        section = self.crystal
        if section.model is None:
            atoms = phantom.build(self.cell, section.space_group, section.phantom_seed)
        else:
            atoms = structure.read(section.model, self.cell, section.space_group)
        curves = {site.atom: self._curve(i, site, atoms) for i, site in enumerate(section.sites)}
        elements = [str(element) for element in np.unique(atoms.elements)]
        others = {element: complex(anomalous.tabulated(element, [self.beam.energy_ev])[0]) for element in elements}
        return structure_factors(
            atoms,
            self.cell,
            section.space_group,
            d_min=section.d_min,
            sites=curves,
            others=others,
            k_sol=section.k_sol,
            b_sol=section.b_sol,
            n_channels=len(self.energies),
        )

    def _curve(self, i: int, site: Site, atoms: Atoms) -> np.ndarray:
        """(channel,) f' + i f'' of a site. Raises ConfigError where the model has no such atom."""
        elements = np.unique(atoms.elements[atoms.names == site.atom])
        if len(elements) != 1:
            found = f"{len(elements)} elements of that name"
            raise ConfigError(f"crystal.sites.{i}.atom", f"an atom '{site.atom}' in the model", found, "Correct it.")
        if site.curve in anomalous.VALENCE:
            return anomalous.site(str(elements[0]), site.curve, self.energies)
        return structure.read_curve(site.curve, self.energies)

    @cached_property
    def rotations(self) -> np.ndarray | None:
        """The published set of mosaic domains, the same in all shots; None for the closed form."""
        if self.crystal.mosaicity == "continuous":
            return None
        return bragg.domain_rotations(self.rng(DOMAINS), self.crystal.n_domains, build.eta_rad(self.crystal))

    @cached_property
    def pixels(self) -> tuple[np.ndarray, ...]:
        """Efficiency and sin θ of all pixels."""
        maps = response.pixel_map(self.detector, self.beam.polarization)
        return tuple(m.astype(self.how.precision) for m in maps)

    @cached_property
    def gain(self) -> np.ndarray:
        return response.gain_map(self.rng(GAIN), self.good.shape, self.section.gain_calibration)

    @cached_property
    def kernel(self) -> np.ndarray | None:
        d = self.section
        return response.fibre_kernel(d.psf_fwhm_mm, d.pixel_mm, d.psf_radius_px) if d.psf_fwhm_mm else None

    def pulse(self, shot_id: int) -> Spectrum:
        keys = ("energy_ev", "envelope_ev", "jitter_ev", "spike_ev", "photons", "photons_spread")
        return spectrum.pulse(self.rng(SPECTRUM, shot_id), self.energies, **{k: getattr(self.beam, k) for k in keys})

    def expected(self, pulse: Spectrum, matrices: list[np.ndarray]) -> tuple[np.ndarray, list[bragg.Spots]]:
        """Photons (panel, slow, fast) float64 without noise, and the spots of each lattice A of `matrices`."""
        efficiency, sine = self.pixels
        mean, total = wavelength(pulse.mean_energy_ev), pulse.photons.sum()
        water_air = background(sine, efficiency, mean, total, self.section.water_mm, self.section.air_mm)
        image, spots = np.asarray(water_air, dtype=np.float64), []
        for A in matrices:
            part, found = bragg.bragg(
                Crystal(A, build.n_cells(self.crystal), np.float64(build.eta_rad(self.crystal))),
                self.factors,
                pulse,
                self.detector,
                rotations=self.rotations,
                beam_mm=self.beam.size_mm,
                scale=self.crystal.domains_per_crystal,
                polarization=self.beam.polarization,
                oversample=self.how.oversample,
                dtype=self.how.precision,
            )
            image = image + part
            spots.append(found)
        return image, spots

    def shot(self, shot_id: int, kind: str) -> tuple[np.ndarray, Truth]:
        """A frame (panel, slow, fast) int32, ADU. A saturated one is of many pulses, as if the shutter stayed open."""
        pulse, turn = self.pulse(shot_id), self.rng(ORIENTATION, shot_id)
        matrices = [rotation.random(turn) @ lattice.reciprocal(self.cell) for _ in range(N_LATTICES.get(kind, 1))]
        image, spots = self.expected(pulse, matrices)
        if kind == "saturated":
            stronger = self.section.saturation_adu / np.quantile(image, 1.0 - FLOODED)
            image, spots = image * stronger, [s._replace(photons=s.photons * stronger) for s in spots]
        adu = response.read_out(
            self.rng(NOISE, shot_id),
            image,
            self.gain,
            kernel=self.kernel,
            readout_adu=self.section.readout_adu,
            offset_adu=self.section.offset_adu,
            saturation_adu=self.section.saturation_adu,
        )
        adu[~self.good] = self.rng(GARBAGE, shot_id).integers(0, 2**16, np.count_nonzero(~self.good))
        middle = np.eye(3) if self.rotations is None else rotation.mean(self.rotations)
        return adu, Truth([middle @ A for A in matrices], spots)

    def write(self, path: Path, run: str, kinds: np.ndarray, key: str) -> None:
        """Simulate a block of shots of these kinds (numbers) and write its file."""
        ids = [images.shot_id(run, path.name, frame) for frame in range(len(kinds))]
        truths: list[Truth] = []

        def frames() -> Iterator[np.ndarray]:
            for shot_id, kind in zip(ids, kinds, strict=True):
                adu, truth = self.shot(shot_id, KINDS[kind])
                truths.append(truth)
                yield adu

        nexus.write(
            path,
            frames(),
            shot_ids=np.array(ids, dtype=np.uint64),
            detector=self.header,
            energies_ev=self.energies,
            photons=np.array([self.pulse(i).photons for i in ids]),
            mask=self.good,
            saturation_adu=self.section.saturation_adu,
            offset_adu=self.section.offset_adu,
            polarization=self.beam.polarization,
            beam_size_mm=self.beam.size_mm,
            compression=self.how.compression,
            truth=lambda: self._columns(ids, kinds, truths),
            true_detector=self.detector,
            corrupt=np.flatnonzero(kinds == KINDS.index("unreadable")).tolist(),
            attributes={"key": key},
        )

    def _columns(self, ids: list[int], kinds: np.ndarray, truths: list[Truth]) -> dict[str, np.ndarray]:
        """Columns of schema 'truth'."""
        matrices, spots = [A for true in truths for A in true.matrices], [s for true in truths for s in true.spots]
        none = bragg.Spots(*np.empty((len(bragg.Spots._fields), 0)))
        joined = bragg.Spots(*(np.concatenate(columns) for columns in zip(none, *spots, strict=True)))
        reflections = joined._asdict() | {"hkl": np.empty((0, 3))}
        node = reflections.pop("node").astype(int)
        if len(node):
            reflections["hkl"] = self.factors.hkl[node]
        reflections["lattice"] = np.repeat(np.arange(len(spots)), [len(s.node) for s in spots])
        shots = {"shots/shot_id": np.array(ids, dtype=np.uint64), "shots/kind": kinds}
        shot_of = np.repeat(np.arange(len(truths)), [len(true.matrices) for true in truths])
        lattices = {"lattices/shot": shot_of, "lattices/A": np.array(matrices).reshape(-1, 3, 3)}
        return shots | lattices | {f"reflections/{name}": column for name, column in reflections.items()}
