"""One simulated still: from the configuration to a frame and what is true of it. Neither files of images nor ranks."""

from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from spreadflow import build
from spreadflow.config import SimulateConfig
from spreadflow.errors import ConfigError
from spreadflow.io.spectra import Bank
from spreadflow.models import Crystal, Mosaic, Parameters, Spectrum
from spreadflow.physics import (
    bragg,
    geometry,
    layout,
    mosaic,
    noise,
    response,
    rotation,
    spectrum,
    unit_cell,
)
from spreadflow.physics.background import background
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.recipes import factors
from spreadflow.units import wavelength

N_LATTICES = {"blank": 0, "double": 2}
"""where it is not one"""
FLOODED = 0.05
"""fraction of the pixels of a saturated shot that its pulse drives beyond the trusted range"""
SPECTRUM, ORIENTATION, NOISE, GARBAGE, DOMAINS, GAIN, PERTURBATION = range(7)
"""purposes of random streams; the last two, and DOMAINS of one set for all, do not depend on the shot"""


class Truth(NamedTuple):
    """What is true of a simulated lattice."""

    crystal: Crystal
    """A is the mean over its mosaic domains"""
    turns: np.ndarray
    """(domain, 3, 3) rotations of the domains from that mean; none where they are not single domains"""
    scale: float
    """domains in the beam, times the pulses of the exposure"""
    spots: bragg.SimulatedSpots


class Simulator:
    """What all shots of a run have in common, each part made when it is first needed."""

    def __init__(self, config: SimulateConfig):
        self.config, self.seed, self.crystal, self.beam = (
            config,
            config.seed,
            config.crystal,
            config.beam,
        )
        self.section, self.how = config.detector, config.simulate
        self.detector = build.detector(self.section)
        self.header = geometry.shifted(
            self.detector, *(-error for error in self.section.header_error_mm)
        )
        self.good = build.good_pixels(self.section, self.detector.n_panels)
        self.energies, self.cell = build.channels(self.beam), build.cell(self.crystal)

    def rng(self, purpose: int, shot_id: int = 0) -> np.random.Generator:
        """The random stream of (seed, shot, purpose): the same on any rank."""
        return np.random.default_rng([self.seed, shot_id, purpose])

    @cached_property
    def factors(self) -> StructureFactors:
        section = self.config.structure_factors
        rng = self.rng(PERTURBATION)
        return factors.factors(section, self.energies, self.beam.energy_ev, rng)

    @property
    def curves(self) -> dict[str, np.ndarray]:
        """Atom → (channel,) f' + i f'' of each site."""
        names = [site.atom for site in self.config.structure_factors.sites]
        return dict(zip(names, self.factors.anomalous[: self.factors.n_sites], strict=True))

    @cached_property
    def pixels(self) -> tuple[np.ndarray, ...]:
        """Efficiency and sin θ of all pixels."""
        return response.pixel_map(self.detector, self.beam.polarization, self.how.precision)

    @cached_property
    def gain(self) -> np.ndarray:
        return noise.gain_map(self.rng(GAIN), self.good.shape, self.section.gain_calibration)

    @cached_property
    def kernel(self) -> np.ndarray | None:
        d = self.section
        make = noise.POINT_SPREADS[d.psf]
        return make(d.psf_fwhm_mm, d.pixel_mm, d.psf_radius_px) if d.psf_fwhm_mm else None

    @cached_property
    def bank(self) -> Bank | None:
        """The recorded spectra that pulses have; None for SASE pulses."""
        return (
            None
            if self.beam.spectra is None
            else Bank(self.beam.spectra, self.energies, self.beam.photons)
        )

    def pulse(self, shot_id: int, number: int) -> Spectrum:
        """The pulse of a shot, `number` in its run. Raises ConfigError where the channels have none of its photons."""
        if self.bank is not None:
            return self.bank.pulse(number)
        keys = ("energy_ev", "envelope_ev", "jitter_ev", "spike_ev", "photons", "photons_spread")
        made = spectrum.pulse(
            self.rng(SPECTRUM, shot_id), self.energies, **{k: getattr(self.beam, k) for k in keys}
        )
        if not made.photons.any():
            found = f"a pulse wholly beyond {self.energies[0]:g}-{self.energies[-1]:g} eV"
            raise ConfigError(
                "beam.jitter_ev", "pulses within the channels", found, "Lower it, or add channels."
            )
        return made

    def mosaics(self, shot_id: int, n_lattices: int) -> list[Mosaic]:
        """Of each lattice of a shot: one set of domains for all, its own, or the distribution they are of."""
        if self.crystal.mosaicity == "continuous":
            one = self._crystal(unit_cell.reciprocal(self.cell))
            return [
                mosaic.continuous(mosaic.n_widths(one, self.config.structure_factors.d_min))
            ] * n_lattices
        own = self.crystal.mosaicity == "per_shot"
        rng = self.rng(DOMAINS, shot_id * own)
        n = build.n_domains(self.crystal)
        eta = build.eta_rad(self.crystal)
        sets = [
            mosaic.domains(mosaic.domain_rotations(rng, n, eta))
            for _ in range(n_lattices if own else 1)
        ]
        return sets if own else sets * n_lattices

    def _crystal(self, A: np.ndarray) -> Crystal:
        return Crystal(A, build.n_cells(self.crystal), np.float64(build.eta_rad(self.crystal)))

    def parameters(self, pulse: Spectrum, A: np.ndarray, spread: Mosaic) -> Parameters:
        """What the Bragg photons of a lattice A depend on: of the nodes, those that the pulse may light."""
        crystal = self._crystal(A)
        rows = layout.reached(crystal, spread, self.factors.hkl, pulse)
        return Parameters(
            crystal,
            spread,
            scale=self.crystal.domains_per_crystal,
            beam_mm=self.beam.size_mm,
            spectrum=pulse,
            polarization=self.beam.polarization,
            detector=self.detector,
            hkl=self.factors.hkl[rows],
            f_squared=self.factors.squared(rows),
            edge_px=0.0 if self.how.oversample == "adaptive" else 1.0 / self.how.oversample,
        )

    def expected(
        self, pulse: Spectrum, lattices: list[Parameters]
    ) -> tuple[np.ndarray, list[bragg.SimulatedSpots]]:
        """Photons (panel, slow, fast) without noise, and the spots of each lattice."""
        efficiency, sine = self.pixels
        mean = wavelength(pulse.mean_energy_ev)
        total = pulse.photons.sum()
        image = np.array(
            background(sine, efficiency, mean, total, self.section.water_mm, self.section.air_mm)
        )
        oversample = None if self.how.oversample == "adaptive" else self.how.oversample
        add = partial(bragg.add, image, oversample=oversample, dtype=self.how.precision)
        return image, [add(p) for p in lattices]

    def exposure(self, shot_id: int, kind: str, pulse: Spectrum) -> tuple[np.ndarray, list[Truth]]:
        """Expected photons (panel, slow, fast) of a shot. A saturated one is of many pulses: an open shutter.

        Raises ConfigError where no number of pulses saturates the detector.
        """
        turn = self.rng(ORIENTATION, shot_id)
        spreads = self.mosaics(shot_id, N_LATTICES.get(kind, 1))
        lattices = [
            self.parameters(pulse, rotation.random(turn) @ unit_cell.reciprocal(self.cell), s)
            for s in spreads
        ]
        image, spots = self.expected(pulse, lattices)
        pulses = 1.0
        if kind == "saturated":
            brightest = np.quantile(image, 1.0 - FLOODED)
            if not brightest > 0:
                expected = f"light in {FLOODED:.0%} of the pixels, where a run has saturated shots"
                raise ConfigError(
                    "detector.water_mm",
                    expected,
                    "none",
                    "Give water or air, or set n_saturated to 0.",
                )
            pulses = self.section.saturation_adu / self.section.quantum_gain / brightest
            image = image * pulses
            spots = [s._replace(photons=s.photons * pulses) for s in spots]
        return image, [_truth(p, pulses, s) for p, s in zip(lattices, spots, strict=True)]

    def frame(self, shot_id: int, image: np.ndarray) -> np.ndarray:
        """What the detector reports of expected photons (panel, slow, fast): int32, ADU."""
        adu = noise.read_out(
            self.rng(NOISE, shot_id),
            image,
            self.gain,
            kernel=self.kernel,
            flicker=self.section.flicker,
            quantum_gain=self.section.quantum_gain,
            readout_adu=self.section.readout_adu,
            offset_adu=self.section.offset_adu,
            saturation_adu=self.section.saturation_adu,
        )
        adu[~self.good] = self.rng(GARBAGE, shot_id).integers(
            0, 2**16, np.count_nonzero(~self.good)
        )
        return adu


def _truth(p: Parameters, pulses: float, spots: bragg.SimulatedSpots) -> Truth:
    """Of a lattice in so many pulses."""
    middle = rotation.mean(p.mosaic.rotations)
    single = p.mosaic.rotations[p.mosaic.width == 0]
    return Truth(
        p.crystal._replace(A=middle @ p.crystal.A), single @ middle.T, p.scale * pulses, spots
    )
