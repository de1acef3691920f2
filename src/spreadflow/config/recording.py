"""Section of how shots were recorded: every number of it is told once, here, for all stages."""

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat

from spreadflow.config.base import Section


class NoiseSection(Section):
    """What makes pixels differ from their expectation."""

    gain: PositiveFloat = 1.0
    """variance over mean of the photons, where spots are found; simulated stills have 1"""
    readout_photons: NonNegativeFloat = 1.0
    """standard deviation of the readout noise"""
    calibration_error: NonNegativeFloat = 0.01
    """relative standard deviation of the gains of pixels about those that are known"""


class RecordingSection(NoiseSection):
    """How shots were recorded. `runs.RUN.recording` overlays this section for one run. What is not
    here stands in the manifest of the run: geometry, ADU per photon, pedestal, polarization,
    bandwidth.
    """

    psf: Literal["fiber", "gauss"] = "fiber"
    """shape of the detector's point spread: of a fibre-optic taper, or a Gaussian"""
    psf_fwhm_mm: NonNegativeFloat = 0.0
    """its width, undone where pixels are modelled; 0 = none (`psff`), 0.08 = as published (`psft`)
    """
    beam_size_mm: PositiveFloat = 0.003
    """edge of the square that the beam lights: the fluence is photons / size²"""
