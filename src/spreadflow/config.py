"""The only schema of the configuration: pydantic models, one section per stage, units in the names.

`load` reads YAML files (later ones overlay earlier ones), validates and fills in defaults. Unknown keys are errors.
`section` gives a stage exactly the sections it declares in `SECTIONS`, so that Snakemake reruns what depends on an
edited key and nothing else.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import gemmi
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from spreadflow.errors import ConfigError, FileError


class Section(BaseModel):
    """A section forbids unknown keys and is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Inconsistent(ValueError):
    """A rule that spans keys is broken: `key` (below the section that checks it), what is allowed, what was found."""

    def __init__(self, key: str, expected: str, found: object):
        self.key, self.expected, self.found = key, expected, found
        super().__init__(f"{key}: expected {expected}; found {found}")


def _space_group(name: str) -> str:
    group = gemmi.find_spacegroup_by_name(name)
    if group is None:
        raise ValueError("a space group gemmi knows, such as 'C 1 2 1' or 'P 41 21 2'")
    return group.xhm()


def _cell(cell: list[float]) -> list[float]:
    if len(cell) != 6 or min(cell) <= 0 or max(cell[3:]) >= 180 or not gemmi.UnitCell(*cell).volume > 0:
        raise ValueError("six positive numbers a b c (Å) α β γ (degrees, < 180) of positive volume")
    return cell


SpaceGroupName = Annotated[str, AfterValidator(_space_group)]
CellParameters = Annotated[list[float], AfterValidator(_cell)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _check_cell_fits_group(cell: list[float], group: str) -> None:
    """Raise Inconsistent if the space group's metric symmetry contradicts the cell by more than 1 % or 1°."""
    sg = gemmi.find_spacegroup_by_name(group)
    a, b, c, al, be, ga = cell
    same = lambda x, y: abs(x - y) <= 0.01 * max(x, y)  # noqa: E731
    angle = lambda x, y: abs(x - y) <= 1.0  # noqa: E731
    right = angle(al, 90) and angle(be, 90) and angle(ga, 90)
    system = sg.crystal_system_str()
    if system == "trigonal" and sg.ext == "R":
        ok, need = same(a, b) and same(b, c) and angle(al, be) and angle(be, ga), "a = b = c, α = β = γ"
    elif system in ("trigonal", "hexagonal"):
        ok, need = same(a, b) and angle(al, 90) and angle(be, 90) and angle(ga, 120), "a = b, 90 90 120"
    elif system == "cubic":
        ok, need = same(a, b) and same(b, c) and right, "a = b = c, 90 90 90"
    elif system == "tetragonal":
        ok, need = same(a, b) and right, "a = b, 90 90 90"
    elif system == "orthorhombic":
        ok, need = right, "90 90 90"
    elif system == "monoclinic":
        unique = sg.monoclinic_unique_axis()
        others = {"a": (be, ga), "b": (al, ga), "c": (al, be)}[unique]
        ok, need = all(angle(x, 90) for x in others), f"two right angles (unique axis {unique})"
    else:
        ok, need = True, ""
    if not ok:
        raise Inconsistent("cell", f"a cell with {need} (space group '{group}')", cell)


# ---------------------------------------------------------------- what is simulated


class Site(Section):
    """One kind of anomalous atom and the curve it scatters with."""

    atom: str
    """atom name in the model, for example FE1"""
    curve: str
    """`oxidized`, `reduced`, or a path to a 3-column table (energy in eV, f', f'')"""


class CrystalSection(Section):
    """The crystals that are simulated (analysis never reads this section)."""

    space_group: SpaceGroupName = "C 1 2 1"
    """any name gemmi knows"""
    cell: CellParameters = [67.2, 59.8, 47.2, 90.0, 110.3, 90.0]
    """a b c (Å) α β γ (degrees), conventional"""
    model: Path | None = None
    """PDB or mmCIF; null = the embedded phantom, built from the seed for this cell and space group"""
    phantom_seed: int = 1
    """seed of the embedded phantom"""
    sites: list[Site] = [Site(atom="FE1", curve="oxidized"), Site(atom="FE2", curve="reduced")]
    """the anomalous atoms; every other atom scatters with tabulated f', f''"""
    d_min: PositiveFloat = 1.7
    """resolution of the structure factors, Å"""
    k_sol: NonNegativeFloat = 0.435
    """electron density of the flat bulk solvent, e/Å³; 0 = none"""
    b_sol: NonNegativeFloat = 46.0
    """B factor of the bulk solvent, Å²"""
    domain_ang: PositiveFloat = 4000.0
    """diameter of the sphere that has the volume of one mosaic domain, Å; sets N cells"""
    domains_per_crystal: PositiveFloat = 93.75
    """multiplies the Bragg signal (illuminated volume over one domain)"""
    mosaicity: Literal["domains", "continuous"] = "domains"
    """`domains`: the same fixed set of domains in every shot; `continuous`: the distribution they are drawn from"""
    mosaic_spread_deg: NonNegativeFloat = 0.05
    """r.m.s. total rotation angle of the domains"""
    n_domains: PositiveInt = 25
    """number of domains, for `domains`"""

    @model_validator(mode="after")
    def _fits(self):
        _check_cell_fits_group(self.cell, self.space_group)
        return self


class StructureFactorsSection(Section):
    """Where F(hkl, E) comes from."""

    source: Literal["model", "merged", "model_completed"] = "model"
    """of `crystal` alone, or measured |F| with its phases and energy dependence, completed by it or not"""
    mtz: Path | None = None
    """merged intensities, Friedel mates apart if possible, for `merged` and `model_completed`"""
    min_i_over_sigma: PositiveFloat = 1.0
    """weaker merged intensities count as not measured"""
    perturb: bool = False
    """a wrong model: B + 10 %, k_sol 0.35, atoms moved by 0.1 Å r.m.s., 5 % of them (never the sites) missing"""

    @model_validator(mode="after")
    def _has_data(self):
        if self.source != "model" and self.mtz is None:
            raise Inconsistent("mtz", f"a merged MTZ file where structure_factors.source is '{self.source}'", None)
        return self


class BeamSection(Section):
    """The pulses that are simulated."""

    energy_ev: PositiveFloat = 7120.0
    """mean photon energy over all pulses"""
    first_channel_ev: PositiveFloat = 7070.5
    """energy of the first channel"""
    channel_ev: PositiveFloat = 1.0
    """width of a channel"""
    n_channels: PositiveInt = 100
    """channels of a spectrum"""
    spectra: Path | None = None
    """NXmx file or manifest whose spectra the pulses have, shot i spectrum i modulo their number; null = SASE pulses"""
    photons: PositiveFloat | None = 1e12
    """mean photons in a pulse, over all recorded spectra; null = as these were recorded"""
    size_mm: PositiveFloat = 0.003
    """edge of the square beam: the fluence is photons / size²"""
    polarization: Annotated[float, Field(ge=-1, le=1)] = 1.0
    """Kahn's K, along the lab x axis"""
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
            raise Inconsistent("energy_ev", f"an energy within the channels, {low:g}-{high:g} eV", self.energy_ev)
        if self.photons is None and self.spectra is None:
            raise Inconsistent("photons", "a number where no spectra are given", "null")
        return self


class PanelSection(Section):
    """One panel of a multi-panel detector."""

    origin_mm: Annotated[list[float], Field(min_length=3, max_length=3)]
    """lab position of the outer corner of pixel (0, 0)"""
    fast: Annotated[list[float], Field(min_length=3, max_length=3)] = [1.0, 0.0, 0.0]
    """unit vector of the fast axis in the lab"""
    slow: Annotated[list[float], Field(min_length=3, max_length=3)] = [0.0, -1.0, 0.0]
    """unit vector of the slow axis in the lab"""


class DetectorSection(Section):
    """The detector that is simulated. Without `panels`: one panel, normal to the beam."""

    shape: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] = [1920, 1920]
    """(slow, fast) pixels of a panel"""
    pixel_mm: PositiveFloat = 0.177
    """edge of the square pixels"""
    distance_mm: PositiveFloat = 141.7
    """from the sample to the single panel"""
    beam_center_px: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """(fast, slow) where the beam truly hits the single panel; null = 1/2 pixel beyond its middle (published: 1)"""
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
    psf: Literal["fiber", "gauss"] = "fiber"
    """shape of the point spread: of a fibre-optic taper, or a Gaussian"""
    psf_fwhm_mm: NonNegativeFloat = 0.0
    """width of the point spread; 0 = none (`psff`), 0.08 = as published (`psft`)"""
    psf_radius_px: PositiveInt = 10
    """half size of the point spread's kernel"""
    flicker: NonNegativeFloat = 0.0
    """relative standard deviation of each pixel's expected photons, anew in each shot"""
    quantum_gain: PositiveFloat = 1.0
    """ADU per photon; the files state it"""
    gain_calibration: NonNegativeFloat = 0.01
    """relative standard deviation of the fixed gain map"""
    readout_adu: NonNegativeFloat = 1.0
    """standard deviation of the readout noise"""
    offset_adu: int = 10
    """pedestal added to every pixel"""
    saturation_adu: Annotated[int, Field(gt=0, lt=2**31 - 1)] = 2_000_000_000
    """upper end of the trusted range"""
    water_mm: NonNegativeFloat = 0.1
    """path through water, for the background"""
    air_mm: NonNegativeFloat = 10.0
    """path through air, for the background"""


class SimulateSection(Section):
    oversample: PositiveInt | Literal["adaptive"] = 1
    """sub-pixels along each edge; `adaptive` = as many as the sharpest domain of each reflection needs"""
    precision: Literal["float32", "float64"] = "float32"
    """of the sums over channels and domains; geometry is always float64"""
    compression: Literal["bitshuffle-lz4", "gzip"] = "bitshuffle-lz4"
    """of the image files"""
    block_shots: PositiveInt = 8
    """shots per image file; a fixed block, whatever the number of ranks"""


class SimulatedShots(Section):
    """How many shots of each kind a simulated run has (in this order)."""

    n_single: NonNegativeInt = 96
    """one lattice"""
    n_blank: NonNegativeInt = 0
    """background only"""
    n_double: NonNegativeInt = 0
    """two lattices"""
    n_saturated: NonNegativeInt = 0
    """one lattice, too bright for the trusted range"""
    n_unreadable: NonNegativeInt = 0
    """stored bytes that do not decompress"""


class RunSection(Section):
    """A run is simulated, or external: a manifest written by `spreadflow manifest`."""

    simulate: SimulatedShots | None = None
    """how many shots of each kind to simulate"""
    images: Path | None = None
    """manifest of existing images"""

    @model_validator(mode="after")
    def _one_of(self):
        if (self.simulate is None) == (self.images is None):
            found = "neither" if self.simulate is None else "both"
            raise Inconsistent("", "either `simulate:` (how many shots) or `images:` (a manifest)", found)
        return self


# ---------------------------------------------------------------- analysis


class SpotsSection(Section):
    """Spot finding by dispersion (Winter et al. 2018)."""

    gain: PositiveFloat = 1.0
    """variance over mean of the photons"""
    sigma_background: PositiveFloat = 6.0
    """threshold of the variance test, in its σ"""
    sigma_strong: PositiveFloat = 3.0
    """threshold of the pixel above its mean, in σ"""
    global_threshold: float = 0.0
    """photons, after the pedestal is subtracted"""
    kernel: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] = [4, 4]
    """half sizes (slow, fast) of the window"""
    min_pixels: PositiveInt = 2
    """smaller spots are noise"""
    max_pixels: PositiveInt = 200
    """larger spots are artefacts"""
    d_min: PositiveFloat | None = None
    """high-resolution limit of spots, Å; null = none"""
    d_max: PositiveFloat | None = None
    """low-resolution limit of spots, Å; null = none"""
    min_spots: PositiveInt = 12
    """fewer spots than this is a blank"""
    max_spots: PositiveInt = 2000
    """more spots than this is an OVERFLOW"""


class IndexSection(Section):
    """Spots → lattices → integrated reflections. `reindex` overlays this section."""

    space_group: SpaceGroupName = "C 1 2 1"
    """of the target; any name gemmi knows"""
    cell: CellParameters = [67.2, 59.8, 47.2, 90.0, 110.3, 90.0]
    """target cell; may be wrong by 3 % and 3°"""
    spots: SpotsSection = SpotsSection()
    """how spots are found"""
    mask: Path | None = None
    """HDF5 dataset `mask` (panel, slow, fast) or (slow, fast), non-zero = not to be used; added to the file's own"""
    saturation_photons: PositiveFloat | None = None
    """upper end of the trusted range; null = as in the file"""
    saturated_fraction_max: Fraction = 0.002
    """of the usable pixels; a shot with more above the trusted range is SATURATED"""
    d_min: PositiveFloat = 1.9
    """resolution to which reflections are predicted"""
    max_lattices: PositiveInt = 3
    """at most this many lattices in a shot"""
    min_indexed: PositiveInt = 8
    """spots a lattice must explain"""
    min_fraction_indexed: Fraction = 0.3
    """of the spots still free when the lattice was found"""
    length_tolerance: Fraction = 0.05
    """how far a, b, c may be from the target, relative"""
    angle_tolerance_deg: PositiveFloat = 5.0
    """how far α, β, γ may be from the target"""
    n_directions: PositiveInt = 32768
    """trial vectors for the axis that leads the search"""
    rmsd_max_px: PositiveFloat = 2.0
    """a lattice with a larger r.m.s.d. is refused"""
    mosaic_spread_deg: PositiveFloat | None = None
    """null = estimated from the data of each lattice"""
    domain_ang: PositiveFloat = 3000.0
    """edge of a mosaic domain that prediction assumes"""
    calibration_error: NonNegativeFloat = 0.01
    """relative pixel-to-pixel gain error, for σ"""
    readout_photons: NonNegativeFloat = 1.0
    """standard deviation of the readout noise, for σ"""
    block_shots: PositiveInt = 8
    """shots in a part file"""

    @model_validator(mode="after")
    def _fits(self):
        _check_cell_fits_group(self.cell, self.space_group)
        return self


class Level0Section(Section):
    runs: list[str] | None = None
    """null = all runs"""
    max_lattices: PositiveInt | None = None
    """at most this many lattices take part; null = all"""
    from_file: Path | None = Field(default=None, alias="from")
    """a frozen level0.expt: nothing is refined"""
    refine: list[Literal["shift", "distance", "tilt"]] = ["shift", "distance"]
    """what moves"""
    outlier_probability: Fraction = 0.99
    """χ² quantile of the robust (minimum covariance determinant) cut on residuals"""
    min_reflections: PositiveInt = 10
    """per lattice; lattices with fewer take no part"""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, populate_by_name=True)


class CellsSection(Section):
    runs: list[str] | None = None
    """runs the clusters are found on (the accepted list always covers all runs); null = all"""
    from_file: Path | None = Field(default=None, alias="from")
    """a frozen cells.h5: clusters are taken from it"""
    features: list[Literal["a", "b", "c", "alpha", "beta", "gamma"]] = ["a", "b", "c"]
    """cell parameters the clusters are found on"""
    eps_ang: PositiveFloat = 0.2
    """DBSCAN radius; angles count as Å per degree"""
    min_samples: PositiveInt = 3
    """lattices within `eps_ang` that make a cluster"""
    mahalanobis_max: PositiveFloat = 4.0
    """accepted lattices are nearer to the chosen cluster than this"""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, populate_by_name=True)


class MergeSection(Section):
    d_min: PositiveFloat = 1.9
    """high-resolution limit, Å"""
    reference: Path | None = None
    """model (PDB, mmCIF) or MTZ the scales are taken against (mark0); null = no reference"""
    refine_b: bool = True
    """a relative B factor for each lattice besides its scale"""
    partiality_min: Fraction = 0.05
    """reflections recorded less than this (relative to the best at their resolution) do not count"""
    min_reflections: PositiveInt = 10
    """lattices with fewer do not count"""
    n_bins: PositiveInt = 10
    """resolution shells of the statistics"""
    n_cycles: PositiveInt = 30
    """at most this many cycles of scaling and error model"""
    min_multiplicity: PositiveInt = 1
    """unique reflections with fewer observations are left out"""


class AnnulusSection(Section):
    d_max: PositiveFloat = 2.5
    """low-resolution edge, Å"""
    d_min: PositiveFloat = 2.1
    """high-resolution edge, Å"""
    min_i_over_sigma: float | None = None
    """null = every predicted reflection"""
    border_px: NonNegativeInt = 3
    """pixels added around the integration shoebox"""

    @model_validator(mode="after")
    def _order(self):
        if self.d_min >= self.d_max:
            raise Inconsistent("d_min", f"less than annulus.d_max, {self.d_max}", self.d_min)
        return self


class Config(Section):
    """Everything. One section per stage plus `trial`, `runs`, `seed` and where things lie."""

    trial: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] = "trial"
    """name of this way to analyse: folder below `results`"""
    seed: NonNegativeInt = 1
    """of everything random"""
    data: Path = Path("data")
    """folder of the runs' images"""
    results: Path = Path("results")
    """folder of the trials"""
    runs: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")], RunSection] = {}
    """name → run"""
    crystal: CrystalSection = CrystalSection()
    """the crystals that are simulated"""
    structure_factors: StructureFactorsSection = StructureFactorsSection()
    """where F(hkl, E) comes from"""
    beam: BeamSection = BeamSection()
    """the pulses that are simulated"""
    detector: DetectorSection = DetectorSection()
    """the detector that is simulated"""
    simulate: SimulateSection = SimulateSection()
    """how images are computed and stored"""
    index: IndexSection = IndexSection()
    """spots → lattices → integrated reflections"""
    reindex: dict[str, Any] = {}
    """keys of `index` that differ in `reindex`"""
    level0: Level0Section = Level0Section()
    """one detector shift and distance from all lattices"""
    cells: CellsSection = CellsSection()
    """clusters of unit cells; the accepted list"""
    merge: MergeSection = MergeSection()
    """scales and merged intensities"""
    annulus: AnnulusSection = AnnulusSection()
    """shoebox pixels within a resolution annulus"""

    @model_validator(mode="after")
    def _whole(self):
        try:
            self.reindex_section()
        except ValidationError as error:
            key, expected, found = _first(error, IndexSection)
            raise Inconsistent(f"reindex.{key}", expected, found) from None
        if self.cells.from_file == self.results / self.trial / "cells.h5":
            raise Inconsistent("cells.from", "a copy of the file that this trial itself writes", self.cells.from_file)
        simulates, mtz = any(run.simulate for run in self.runs.values()), self.structure_factors.mtz
        if simulates and mtz == self.results / self.trial / "merge.mtz":
            raise Inconsistent("structure_factors.mtz", "a copy of the file that this trial itself writes", mtz)
        for stage in ("level0", "cells"):
            for run in getattr(self, stage).runs or []:
                if run not in self.runs:
                    raise Inconsistent(f"{stage}.runs", f"names among runs: {', '.join(self.runs)}", run)
        return self

    def reindex_section(self) -> IndexSection:
        """`index` overlaid by `reindex`."""
        return IndexSection.model_validate(overlay(self.index.model_dump(), self.reindex))


SECTIONS: dict[str, tuple[str, ...]] = {
    "simulate": ("seed", "crystal", "structure_factors", "beam", "detector", "simulate"),
    "index": ("index",),
    "level0": ("level0",),
    "reindex": ("reindex",),
    "cells": ("cells",),
    "merge": ("merge",),
    "annulus": ("annulus",),
}
"""The config sections each stage reads. `reindex` is handed over already overlaid on `index`."""


def overlay(base: dict, top: dict) -> dict:
    """`top` laid over `base`, dictionaries merged key by key, everything else replaced."""
    out = dict(base)
    for key, value in top.items():
        nested = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = overlay(out[key], value) if nested else value
    return out


def _explain(error: ValidationError, where: object, model: type[BaseModel]) -> ConfigError:
    """The first validation error as one sentence naming the key, what was found and what is allowed."""
    key, expected, found = _first(error, model)
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return ConfigError(f"{where}: {key or '(whole file)'}", expected, found, f"See docs/config.md.{more}")


def _first(error: ValidationError, model: type[BaseModel]) -> tuple[str, str, str]:
    """(key, what is allowed, what was found) of the first error."""
    first = error.errors()[0]
    key, cause = ".".join(str(p) for p in first["loc"]), first.get("ctx", {}).get("error")
    if isinstance(cause, Inconsistent):
        return ".".join(filter(None, (key, cause.key))), cause.expected, str(cause.found)
    if first["type"] == "extra_forbidden":
        return key, f"one of the keys {', '.join(_keys(model, first['loc'][:-1]))}", "an unknown key"
    if first["type"] == "missing":
        return key, "this key", "nothing"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return key, message, repr(first["input"])


def _keys(model: type[BaseModel], place: tuple) -> list[str]:
    """The keys of the section at `place` below `model`; list indices and names of runs are passed over."""
    for part in place:
        field = next((f for name, f in model.model_fields.items() if part in (name, f.alias)), None)
        if field is not None:
            model = next(_sections_in(field.annotation), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections in a type such as `dict[str, RunSection] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections_in(inner)


def parse(tree: dict, where: object = "config") -> Config:
    """Validate a nested dictionary. Raises ConfigError."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, where, Config) from None


def load(*paths: Path | str) -> Config:
    """Read YAML files, later ones over earlier ones, and validate. Raises ConfigError."""
    tree: dict = {}
    for path in paths:
        try:
            layer = yaml.safe_load(Path(path).read_text()) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(path, "a readable YAML file", error, "Check the path and the indentation.") from None
        if not isinstance(layer, dict):
            raise ConfigError(path, "a YAML mapping of sections", type(layer).__name__, "See config/config.yaml.")
        tree = overlay(tree, layer)
    return parse(tree, paths[-1] if paths else "config")


def files(config: Config) -> dict[str, Path]:
    """The files the configuration names: key → path."""
    reindex = config.reindex_section()
    named = {
        "crystal.model": config.crystal.model,
        "structure_factors.mtz": config.structure_factors.mtz,
        "beam.spectra": config.beam.spectra,
        "index.mask": config.index.mask,
        "reindex.mask": reindex.mask,
        "level0.from": config.level0.from_file,
        "cells.from": config.cells.from_file,
        "merge.reference": config.merge.reference,
    }
    named |= {f"runs.{run}.images": keys.images for run, keys in config.runs.items()}
    curves = {f"crystal.sites.{i}.curve": site.curve for i, site in enumerate(config.crystal.sites)}
    named |= {key: Path(curve) for key, curve in curves.items() if curve not in ("oxidized", "reduced")}
    return {key: path for key, path in named.items() if path is not None}


def check_ready(config: Config) -> None:
    """Raise where a trial could not run: ConfigError without a run, FileError for a named file that does not exist.

    Snakemake would not tell of a missing file as long as what was made from it is still there.
    """
    if not config.runs:
        raise ConfigError("config: runs", "at least one run", "none", "See config/README.md.")
    for key, path in files(config).items():
        if not path.is_file():
            todo = "Write it with `spreadflow manifest`." if key.endswith(".images") else "Check the path."
            raise FileError(f"config: {key}", "an existing file", path, todo)


def section(config: Config, stage: str, run: str | None = None) -> str:
    """JSON of exactly the sections `stage` reads: the `params` of its rule and the argument of its command.

    `simulate` also gets the shots of the one run it makes, and no other run's.
    """
    dump = config.model_dump(mode="json", by_alias=True)
    dump["reindex"] = config.reindex_section().model_dump(mode="json", by_alias=True)
    sections = {name: dump[name] for name in SECTIONS[stage]}
    if stage == "simulate":
        if run not in config.runs or config.runs[run].simulate is None:
            simulated = ", ".join(r for r, s in config.runs.items() if s.simulate) or "none"
            raise ConfigError("runs", f"a simulated run (there are: {simulated})", repr(run), "Check the run's name.")
        sections["shots"] = dump["runs"][run]["simulate"]
    return json.dumps(sections, sort_keys=True)


ABSENT: Any = None
"""a section that a stage does not read (typed so that stages need not ask)"""


class StageConfig(Section):
    """The sections of one stage, validated (attributes of sections not handed over are None)."""

    seed: int = ABSENT
    crystal: CrystalSection = ABSENT
    structure_factors: StructureFactorsSection = ABSENT
    beam: BeamSection = ABSENT
    detector: DetectorSection = ABSENT
    simulate: SimulateSection = ABSENT
    shots: SimulatedShots = ABSENT
    index: IndexSection = ABSENT
    level0: Level0Section = ABSENT
    reindex: IndexSection = ABSENT
    cells: CellsSection = ABSENT
    merge: MergeSection = ABSENT
    annulus: AnnulusSection = ABSENT


def for_stage(text: str, stage: str, run: str | None = None) -> StageConfig:
    """Parse `--config`: the JSON that `section` wrote, or a path to a YAML file of which the sections are taken."""
    if not text.lstrip().startswith("{"):
        text = section(load(text), stage, run)
    try:
        config = StageConfig.model_validate_json(text)
    except ValidationError as error:
        raise _explain(error, f"--config of {stage}", StageConfig) from None
    if missing := [name for name in SECTIONS[stage] if getattr(config, name) is None]:
        raise ConfigError(f"--config of {stage}", f"the sections {', '.join(missing)}", "none of them", "Add them.")
    return config
