"""One simulated still: from the configuration to a frame and what is true of it. No files, no
ranks.
"""

from functools import cached_property, partial
from typing import NamedTuple, Protocol

import numpy as np

from spreadflow import build
from spreadflow.config import SimulateConfig
from spreadflow.errors import ConfigError
from spreadflow.io.factor_files import NO_FILES, FactorFiles
from spreadflow.models import Crystal, Mosaic, Parameters, Spectrum
from spreadflow.physics import (
    bragg,
    geometry,
    layout,
    mosaic,
    noise,
    point_spreads,
    rotation,
    spectrum,
    unit_cell,
)
from spreadflow.physics.background import background
from spreadflow.physics.pixel_map import pixel_map
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.recipes import factors
from spreadflow.units import wavelength

N_LATTICES = {"blank": 0, "double": 2}
"""Lattices in a shot of a kind; every other kind has one."""

FLOODED = 0.05
"""Fraction of the pixels of a saturated shot that its pulse drives beyond the trusted range."""

SPECTRUM, ORIENTATION, NOISE, GARBAGE, DOMAINS, GAIN, PERTURBATION = range(7)
"""Purposes of random streams. The last two, and DOMAINS of one set for all, do not depend on the
shot.
"""


class RecordedSpectra(Protocol):
    """Spectra that were recorded, for pulses of a simulation."""

    def pulse(self, number: int) -> Spectrum:
        """Return the pulse of shot `number` of a run."""


class Truth(NamedTuple):
    """The truth of a simulated lattice."""

    crystal: Crystal
    """A is the mean over its mosaic domains"""
    turns: np.ndarray
    """(domain, 3, 3) rotations of the domains from that mean; none where they are not single
    domains
    """
    scale: float
    """domains in the beam, times the pulses of the exposure"""
    spots: bragg.SimulatedSpots


class Simulator:
    """What all shots of a run have in common, each part made when it is first needed."""

    def __init__(
        self,
        config: SimulateConfig,
        files: FactorFiles = NO_FILES,
        recorded: RecordedSpectra | None = None,
    ):
        """Prepare a simulation.

        files: contents of the files of `structure_factors`; recorded: spectra in place of SASE
        pulses.
        """
        self.config = config
        self.seed = config.seed
        self.crystal = config.crystal
        self.beam = config.beam
        self.section = config.detector
        self.recording = config.recording
        self.rendering = config.simulate
        self.files = files
        self.recorded = recorded
        self.detector = build.detector(self.section)
        error_mm = self.section.header_error_mm
        self.header = geometry.shifted(self.detector, *(-error for error in error_mm))
        self.good = build.good_pixels(self.section, self.detector.n_panels)
        self.energies = build.channels(self.beam)
        self.cell = build.cell(self.crystal)

    def rng(self, purpose: int, shot_id: int = 0) -> np.random.Generator:
        """Return the random stream of (seed, shot, purpose), which is the same on every rank."""
        return np.random.default_rng([self.seed, shot_id, purpose])

    @cached_property
    def factors(self) -> StructureFactors:
        """F(hkl, E) of the crystals, in the channels of the pulses"""
        section = self.config.structure_factors
        energy_ev = self.beam.energy_ev
        rng = self.rng(PERTURBATION)
        return factors.factors(section, self.energies, energy_ev, rng, self.files)

    @property
    def curves(self) -> dict[str, np.ndarray]:
        """name of a site → (channel,) f′ + i f″"""
        names = [site.label for site in self.config.structure_factors.sites]
        return dict(zip(names, self.factors.anomalous[: self.factors.n_sites], strict=True))

    @cached_property
    def pixels(self) -> tuple[np.ndarray, ...]:
        """efficiency and sin θ of all pixels"""
        return pixel_map(self.detector, self.beam.polarization, self.rendering.precision)

    @cached_property
    def gain(self) -> np.ndarray:
        """(panel, slow, fast) gain of each pixel over the nominal one"""
        return noise.gain_map(self.rng(GAIN), self.good.shape, self.recording.calibration_error)

    @cached_property
    def kernel(self) -> np.ndarray | None:
        """kernel of the point spread, or None without one"""
        fwhm_mm = self.recording.psf_fwhm_mm
        if not fwhm_mm:
            return None
        make_kernel = point_spreads.POINT_SPREADS[self.recording.psf]
        return make_kernel(fwhm_mm, self.section.pixel_mm, self.section.psf_radius_px)

    @property
    def readout_adu(self) -> float:
        """standard deviation of the readout noise, ADU"""
        return self.recording.readout_photons * self.section.quantum_gain

    def pulse(self, shot_id: int, number: int) -> Spectrum:
        """Return the pulse of a shot, `number` in its run. Raises ConfigError where no photon is in
        the channels.
        """
        if self.recorded is not None:
            return self.recorded.pulse(number)
        assert self.beam.photons is not None, "checked with the configuration"
        pulse = spectrum.pulse(
            self.rng(SPECTRUM, shot_id),
            self.energies,
            energy_ev=self.beam.energy_ev,
            envelope_ev=self.beam.envelope_ev,
            jitter_ev=self.beam.jitter_ev,
            spike_ev=self.beam.spike_ev,
            photons=self.beam.photons,
            photons_spread=self.beam.photons_spread,
        )
        if not pulse.photons.any():
            found = f"a pulse wholly beyond {self.energies[0]:g}-{self.energies[-1]:g} eV"
            todo = "Lower it, or add channels."
            raise ConfigError("beam.jitter_ev", "pulses within the channels", found, todo)
        return pulse

    def mosaics(self, shot_id: int, n_lattices: int) -> list[Mosaic]:
        """Return the mosaicity of each lattice of a shot.

        It is one set of domains for all lattices, a set of each lattice's own, or the
        distribution from which domains are drawn.
        """
        if self.crystal.mosaicity == "continuous":
            crystal = self._crystal(unit_cell.reciprocal(self.cell))
            n_widths = mosaic.n_widths(crystal, self.config.structure_factors.d_min)
            return [mosaic.continuous(n_widths)] * n_lattices
        is_per_shot = self.crystal.mosaicity == "per_shot"
        rng = self.rng(DOMAINS, shot_id if is_per_shot else 0)
        n_domains = build.n_domains(self.crystal)
        eta_rad = build.eta_rad(self.crystal)
        sets = [
            mosaic.domains(mosaic.domain_rotations(rng, n_domains, eta_rad))
            for _ in range(n_lattices if is_per_shot else 1)
        ]
        return sets if is_per_shot else sets * n_lattices

    def _crystal(self, A: np.ndarray) -> Crystal:
        """Return a crystal of the configured domains with the orientation and cell of A."""
        eta_rad = np.float64(build.eta_rad(self.crystal))
        return Crystal(A, build.n_cells(self.crystal), eta_rad)

    def parameters(self, pulse: Spectrum, A: np.ndarray, mosaicity: Mosaic) -> Parameters:
        """Return the parameters of the Bragg photons of a lattice, with those nodes that the pulse
        may light.
        """
        crystal = self._crystal(A)
        rows = layout.reached(crystal, mosaicity, self.factors.hkl, pulse)
        oversample = self.rendering.oversample
        return Parameters(
            crystal=crystal,
            mosaic=mosaicity,
            scale=self.crystal.domains_per_crystal,
            beam_mm=self.recording.beam_size_mm,
            spectrum=pulse,
            polarization=self.beam.polarization,
            detector=self.detector,
            hkl=self.factors.hkl[rows],
            f_squared=self.factors.squared(rows),
            edge_px=0.0 if oversample == "adaptive" else 1.0 / oversample,
        )

    def expected(
        self, pulse: Spectrum, lattices: list[Parameters]
    ) -> tuple[np.ndarray, list[bragg.SimulatedSpots]]:
        """Return the photons (panel, slow, fast) of a shot without noise, and the spots of each
        lattice.
        """
        efficiency, sine = self.pixels
        image = np.array(
            background(
                sine,
                efficiency,
                wavelength(pulse.mean_energy_ev),
                pulse.photons.sum(),
                self.section.water_mm,
                self.section.air_mm,
            )
        )
        oversample = self.rendering.oversample
        add = partial(
            bragg.add,
            image,
            oversample=None if oversample == "adaptive" else oversample,
        )
        return image, [add(lattice) for lattice in lattices]

    def exposure(self, shot_id: int, kind: str, pulse: Spectrum) -> tuple[np.ndarray, list[Truth]]:
        """Return the expected photons (panel, slow, fast) of a shot, and the truth of its lattices.

        A saturated shot is exposed to many pulses, as with an open shutter. Raises ConfigError
        where no number of pulses saturates the detector.
        """
        rng = self.rng(ORIENTATION, shot_id)
        B = unit_cell.reciprocal(self.cell)
        lattices = [
            self.parameters(pulse, rotation.random(rng) @ B, mosaicity)
            for mosaicity in self.mosaics(shot_id, N_LATTICES.get(kind, 1))
        ]
        image, spots = self.expected(pulse, lattices)
        n_pulses = 1.0
        if kind == "saturated":
            brightest = np.quantile(image, 1.0 - FLOODED)
            if not brightest > 0:
                expected = f"light in {FLOODED:.0%} of the pixels, where a run has saturated shots"
                todo = "Give water or air, or set n_saturated to 0."
                raise ConfigError("detector.water_mm", expected, "none", todo)
            n_pulses = self.section.saturation_adu / self.section.quantum_gain / brightest
            image = image * n_pulses
            spots = [
                of_lattice._replace(photons=of_lattice.photons * n_pulses) for of_lattice in spots
            ]
        truths = [
            _truth(lattice, n_pulses, of_lattice)
            for lattice, of_lattice in zip(lattices, spots, strict=True)
        ]
        return image, truths

    def frame(self, shot_id: int, image: np.ndarray) -> np.ndarray:
        """Return the frame that the detector records of expected photons (panel, slow, fast), as
        int32, ADU.
        """
        adu = noise.read_out(
            self.rng(NOISE, shot_id),
            image,
            self.gain,
            kernel=self.kernel,
            flicker=self.section.flicker,
            quantum_gain=self.section.quantum_gain,
            readout_adu=self.readout_adu,
            offset_adu=self.section.offset_adu,
            saturation_adu=self.section.saturation_adu,
        )
        is_bad = ~self.good
        garbage = self.rng(GARBAGE, shot_id).integers(0, 2**16, np.count_nonzero(is_bad))
        adu[is_bad] = garbage
        return adu


def _truth(lattice: Parameters, n_pulses: float, spots: bragg.SimulatedSpots) -> Truth:
    """Return the truth of a lattice that is exposed to `n_pulses` pulses."""
    rotations = lattice.mosaic.rotations
    mean = rotation.mean(rotations)
    single = rotations[lattice.mosaic.width == 0]
    return Truth(
        crystal=lattice.crystal._replace(A=mean @ lattice.crystal.A),
        turns=single @ mean.T,
        scale=lattice.scale * n_pulses,
        spots=spots,
    )
