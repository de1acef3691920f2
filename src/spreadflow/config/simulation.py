"""Sections of what is simulated: crystals and what they scatter, pulses, detector, images, runs."""

import math
from glob import glob
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from spreadflow.config.base import (
    CellParameters,
    Inconsistent,
    Resolution,
    Section,
    Seed,
    SpaceGroupName,
    check_cell_fits_group,
)

NAMED_CURVES = ("oxidized", "reduced", "metallic")
"""Curves of a site that no file needs to hold."""


class Site(Section):
    """An anomalous atom, or several that scatter alike, and the curve they scatter with."""

    atom: str | Annotated[list[str], Field(min_length=1)]
    """the one atom of that name (`FE1`) or of a selection by chain, residue, name and, if wanted,
    alternative position (`//A/201/FE1`, `//A/201/FE1:B`); a list: all these atoms share the curve
    (`[FE1]`: all of that name); see config/README.md
    """
    curve: str
    """`oxidized`, `reduced`, `metallic`, or a path to a 3-column table (energy in eV, f', f'')"""

    @property
    def selections(self) -> list[str]:
        """The selections of its atoms."""
        return [self.atom] if isinstance(self.atom, str) else self.atom

    @property
    def label(self) -> str:
        """Its name in tables and figures: the selections without their first slashes."""
        return " + ".join(selection.lstrip("/") for selection in self.selections)


def _different_atoms(sites: list[Site]) -> list[Site]:
    """Return sites as they are. Raises ValueError where two have an atom in common."""
    atoms = [atom for site in sites for atom in site.selections]
    if len(set(atoms)) < len(atoms):
        raise ValueError("no atom in two sites, or twice in one")
    return sites


class CrystalSection(Section):
    """The crystals that are simulated (analysis never reads this section)."""

    space_group: SpaceGroupName = "C 1 2 1"
    """any name gemmi knows"""
    cell: CellParameters = [67.2, 59.8, 47.2, 90.0, 110.3, 90.0]
    """a b c (Å) α β γ (degrees), conventional"""
    domain_ang: PositiveFloat = 4000.0
    """diameter of the sphere that has the volume of one mosaic domain, Å; sets N cells"""
    domains_per_crystal: PositiveFloat = 93.75
    """multiplies the Bragg signal (illuminated volume over one domain)"""
    mosaicity: Literal["domains", "per_shot", "continuous"] = "domains"
    """`domains`: the same fixed set of domains in every shot; `per_shot`: every lattice its own
    set, as in real crystals; `continuous`: the distribution they are drawn from
    """
    mosaic_spread_deg: NonNegativeFloat = 0.05
    """r.m.s. total rotation angle of the domains"""
    n_domains: Annotated[int, Field(gt=0, le=100_000)] | None = None
    """number of domains; null = 25 for `domains`, all there are (`domains_per_crystal`, rounded)
    for `per_shot`
    """

    @model_validator(mode="after")
    def _fits(self):
        check_cell_fits_group(self.cell, self.space_group)
        return self


class CrystalOrTarget(Protocol):
    """A section that says which crystals there are."""

    @property
    def space_group(self) -> str:
        """Its full name."""

    @property
    def cell(self) -> list[float]:
        """a b c (Å) α β γ (degrees)"""


class StructureFactorsSection(Section):
    """Where F(hkl, E) comes from: of what is simulated and, with a stage's own keys over it, of
    that stage's model.
    """

    source: Literal["model", "merged", "model_completed"] = "model"
    """of the model alone, or measured |F| with its phases and energy dependence, completed by it or
    not
    """
    model: Path | None = None
    """PDB or mmCIF; null = the embedded phantom, built from the seed for this cell and space group
    """
    phantom_seed: Seed = 1
    """seed of the embedded phantom"""
    space_group: SpaceGroupName | None = None
    """of the model; null = that of `crystal` or, where no run is simulated, of `reindex`"""
    cell: CellParameters | None = None
    """of the model; null = that of `crystal` or, where no run is simulated, of `reindex`"""
    sites: Annotated[list[Site], AfterValidator(_different_atoms)] = [
        Site(atom="FE1", curve="oxidized"),
        Site(atom="FE2", curve="reduced"),
    ]
    """the anomalous atoms; every other atom scatters with tabulated f', f''"""
    d_min: Resolution = 1.7
    """resolution of the structure factors, Å"""
    k_sol: NonNegativeFloat = 0.435
    """electron density of the flat bulk solvent, e/Å³; 0 = none"""
    b_sol: NonNegativeFloat = 46.0
    """B factor of the bulk solvent, Å²"""
    mtz: Path | None = None
    """merged intensities or amplitudes with σ, Friedel mates apart if possible, for `merged` and
    `model_completed`: an MTZ file, or structure factors in mmCIF
    """
    min_i_over_sigma: PositiveFloat = 1.0
    """weaker merged intensities count as not measured"""
    perturb: bool = False
    """a wrong model: B + 10 %, k_sol 0.35, atoms moved by 0.1 Å r.m.s., 5 % of them (never the
    sites) missing
    """

    @model_validator(mode="after")
    def _has_data(self):
        if self.source != "model" and self.mtz is None:
            expected = f"a merged MTZ file where structure_factors.source is '{self.source}'"
            raise Inconsistent("mtz", expected, None)
        return self

    def of_crystal(self, crystal: CrystalOrTarget) -> "StructureFactorsSection":
        """Return the section with a crystal's cell and space group where its own are null. Raises
        Inconsistent if they do not fit.
        """
        cell = self.cell or crystal.cell
        group = self.space_group or crystal.space_group
        check_cell_fits_group(cell, group)
        return self.model_copy(update={"cell": cell, "space_group": group})


class BeamSection(Section):
    """The pulses that are simulated."""

    energy_ev: Annotated[float, Field(ge=1000, le=1_000_000)] = 7120.0
    """mean photon energy over all pulses"""
    first_channel_ev: PositiveFloat = 7070.5
    """energy of the first channel"""
    channel_ev: PositiveFloat = 1.0
    """width of a channel"""
    n_channels: Annotated[int, Field(gt=0, le=100_000)] = 100
    """channels of a spectrum"""
    spectra: Path | None = None
    """NXmx file or manifest whose spectra the pulses have, shot i spectrum i modulo their number;
    null = SASE pulses
    """
    photons: PositiveFloat | None = 1e12
    """mean photons in a pulse, over all recorded spectra; null = as these were recorded"""
    polarization: Annotated[float, Field(ge=-1, le=1)] = 1.0
    """Kahn's K, along the lab x axis; the manifest states it"""
    envelope_ev: PositiveFloat = 11.0
    """standard deviation of the mean spectrum of a pulse"""
    jitter_ev: NonNegativeFloat = 6.0
    """standard deviation of the pulse's centroid"""
    spike_ev: PositiveFloat = 0.6
    """width (FWHM) of one SASE spike"""
    photons_spread: NonNegativeFloat = 0.25
    """relative standard deviation of the photons in a pulse"""

    @model_validator(mode="after")
    def _in_channels(self):
        low = self.first_channel_ev - 0.5 * self.channel_ev
        high = low + self.n_channels * self.channel_ev
        if not low <= self.energy_ev <= high:
            expected = f"an energy within the channels, {low:g}-{high:g} eV"
            raise Inconsistent("energy_ev", expected, self.energy_ev)
        if self.photons is None and self.spectra is None:
            raise Inconsistent("photons", "a number where no spectra are given", "null")
        return self


LARGEST_COSINE = 0.866
"""Of the angle between the two axes of a panel, which are made perpendicular: 30°."""


class PanelSection(Section):
    """One panel of a multi-panel detector."""

    origin_mm: Annotated[list[float], Field(min_length=3, max_length=3)]
    """lab position of the outer corner of pixel (0, 0)"""
    fast: Annotated[list[float], Field(min_length=3, max_length=3)] = [1.0, 0.0, 0.0]
    """unit vector of the fast axis in the lab"""
    slow: Annotated[list[float], Field(min_length=3, max_length=3)] = [0.0, -1.0, 0.0]
    """unit vector of the slow axis in the lab"""

    @model_validator(mode="after")
    def _is_panel(self):
        pairs = ((self.fast, self.fast), (self.slow, self.slow), (self.fast, self.slow))
        fast, slow, both = (sum(x * y for x, y in zip(a, b, strict=True)) for a, b in pairs)
        if abs(both) >= LARGEST_COSINE * math.sqrt(fast * slow):
            expected = "fast and slow axes at about right angles"
            raise Inconsistent("", expected, f"{self.fast} and {self.slow}")
        return self


class DetectorSection(Section):
    """The detector that is simulated, beside its noise and point spread (`recording`). Without
    `panels`: one panel, normal to the beam.
    """

    shape: Annotated[
        list[Annotated[int, Field(gt=0, le=16384)]], Field(min_length=2, max_length=2)
    ] = [1920, 1920]
    """(slow, fast) pixels of a panel"""
    pixel_mm: Annotated[float, Field(ge=0.001, le=10)] = 0.177
    """edge of the square pixels"""
    distance_mm: Annotated[float, Field(ge=1, le=100_000)] = 141.7
    """from the sample to the single panel"""
    beam_center_px: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """(fast, slow) where the beam truly hits the single panel; null = 1/2 pixel beyond its middle
    (published: 1)
    """
    header_error_mm: Annotated[list[float], Field(min_length=3, max_length=3)] = [0.0, 0.0, 0.0]
    """(fast, slow, distance): the truth minus what the files' headers say"""
    panels: list[PanelSection] = []
    """several panels; replaces `distance_mm` and `beam_center_px`"""
    bad_pixels: list[Annotated[list[int], Field(min_length=5, max_length=5)]] = []
    """[panel, slow0, slow1, fast0, fast1], half open: masked in the file, garbage in the data"""
    thickness_mm: NonNegativeFloat = 0.032
    """of the sensor; 0 = captures everything"""
    attenuation_mm: PositiveFloat = 0.017
    """attenuation length of the sensor"""
    parallax: bool = False
    """spots lie at the mean depth at which the sensor absorbs, farther out at oblique incidence;
    false (as published): where rays meet its surface
    """
    psf_radius_px: Annotated[int, Field(gt=0, le=1000)] = 10
    """half size of the point spread's kernel"""
    flicker: NonNegativeFloat = 0.0
    """relative standard deviation of each pixel's expected photons, anew in each shot"""
    quantum_gain: PositiveFloat = 1.0
    """ADU per photon; the files state it"""
    offset_adu: int = 10
    """pedestal added to every pixel"""
    saturation_adu: Annotated[int, Field(gt=0, lt=2**31 - 1)] = 2_000_000_000
    """upper end of the trusted range"""
    water_mm: NonNegativeFloat = 0.1
    """path through water, for the background"""
    air_mm: NonNegativeFloat = 10.0
    """path through air, for the background"""

    @model_validator(mode="after")
    def _order(self):
        if self.saturation_adu <= self.offset_adu:
            expected = f"more than detector.offset_adu, {self.offset_adu}"
            raise Inconsistent("saturation_adu", expected, self.saturation_adu)
        return self

    @model_validator(mode="after")
    def _has_places(self):
        n_slow, n_fast = self.shape
        for one in self.panels:
            fast, slow = (axis[2] / math.hypot(*axis) for axis in (one.fast, one.slow))
            z_mm = one.origin_mm[2] + self.pixel_mm / 2 * (n_slow * slow + n_fast * fast)
            if z_mm >= 0:
                expected = "panels downstream of the sample, at z < 0 in the lab"
                raise Inconsistent("panels", expected, f"the centre of one at z = {z_mm:g} mm")
        for panel, slow, slow_end, fast, fast_end in self.bad_pixels:
            is_there = 0 <= panel < max(1, len(self.panels))
            if not (is_there and 0 <= slow < slow_end <= n_slow and 0 <= fast < fast_end <= n_fast):
                expected = "[panel, slow0, slow1, fast0, fast1] of pixels that there are"
                raise Inconsistent("bad_pixels", expected, [panel, slow, slow_end, fast, fast_end])
        return self


class SimulateSection(Section):
    """How images are computed and stored."""

    oversample: Annotated[int, Field(gt=0, le=100)] | Literal["adaptive"] = 2
    """sub-pixels along each edge, each averaged over its square; `adaptive` = as many points as the
    sharpest domain of each reflection needs
    """
    precision: Literal["float32", "float64"] = "float32"
    """of the maps of the detector and of the image; Bragg photons are always float64"""
    compression: Literal["bitshuffle-lz4", "gzip"] = "bitshuffle-lz4"
    """of the image files"""
    block_shots: PositiveInt = 8
    """shots per image file; a fixed block, whatever the number of ranks"""


NumberOfShots = Annotated[int, Field(ge=0, le=10_000_000)]
"""Shots of a kind."""


class SimulatedShots(Section):
    """How many shots of each kind a simulated run has (in this order)."""

    n_single: NumberOfShots = 96
    """one lattice"""
    n_blank: NumberOfShots = 0
    """background only"""
    n_double: NumberOfShots = 0
    """two lattices"""
    n_saturated: NumberOfShots = 0
    """one lattice, too bright for the trusted range"""
    n_unreadable: NumberOfShots = 0
    """stored bytes that do not decompress"""


class LatticesSection(Section):
    """Lattices with intensities that another program made, taken as its files state them: no image
    is opened. A name, or a list of names, stands for `files` alone.
    """

    files: Annotated[list[str], Field(min_length=1)]
    """CrystFEL streams, or integrated .expt with the .refl of the same name beside; names or
    patterns
    """
    geometry: Path | None = None
    """CrystFEL geometry file in place of that in the headers of streams"""
    bandwidth: Annotated[float, Field(gt=0, lt=0.2)] | None = None
    """relative full width at half maximum of the pulses; null = as stated, else one energy"""
    adu_per_photon: PositiveFloat | None = None
    """gain that intensities are divided by; null = as the geometry file states it, else 1"""
    polarization: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Kahn's K along the lab x axis; null = as stated, else 1"""

    @model_validator(mode="before")
    @classmethod
    def _of_names(cls, value: Any) -> Any:
        """Return the keys that names alone stand for."""
        names = [value] if isinstance(value, str) else value
        return {"files": names} if isinstance(names, list) else value

    @property
    def paths(self) -> list[Path]:
        """The files that the names and patterns stand for, in order; a pattern that matches
        nothing, as it is.
        """
        names = [name for pattern in self.files for name in sorted(glob(pattern)) or [pattern]]
        return [Path(name) for name in dict.fromkeys(names)]


class RunSection(Section):
    """A run is simulated, or external: a manifest written by `spreadflow manifest`, or lattices
    with intensities of another program.
    """

    simulate: SimulatedShots | None = None
    """how many shots of each kind to simulate"""
    images: Path | None = None
    """manifest of existing images"""
    spec: Path | None = None
    """file of `.expt .refl` pairs: the lattices, which are then not looked for"""
    lattices: LatticesSection | None = None
    """files of another program that hold lattices and intensities, in place of images"""
    recording: dict[str, Any] = {}
    """keys of `recording` that differ in this run"""
    correlate: dict[str, Any] | None = None
    """keys of `correlate` that differ in this run, `{}` for none: its shots are correlated in time,
    and no crystals are looked for; null = they are
    """

    @model_validator(mode="after")
    def _has_one_origin(self):
        origins = ("simulate", "images", "lattices")
        stated = [name for name in origins if getattr(self, name) is not None]
        if len(stated) != 1:
            expected = (
                "either `simulate:` (how many shots) or `images:` (a manifest) or `lattices:` "
                "(files of another program)"
            )
            found = "neither" if not stated else f"both {' and '.join(stated)}"
            raise Inconsistent("", expected, found)
        if self.lattices is not None and self.spec is not None:
            raise Inconsistent("spec", "no spec file beside `lattices:`", self.spec)
        if self.correlate is not None and (self.lattices or self.spec):
            raise Inconsistent("correlate", "images alone beside it", "lattices")
        return self
