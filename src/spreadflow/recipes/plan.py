"""Before the beam time: how well the curves will be determined by a number of lattices, as
`spreadflow plan` writes it.

Lattices of the configured crystal, beam and detector are made directly as shoeboxes, and the
information of each about the curves is computed at the truth, without images or fits. The σ that
follow are a lower bound, as the mosaicity is known; and the model of F either right, or wrong by
no more than is said.

Information adds up over reflections too. Of lattices with very many a share is computed, chosen by
lot, that stands for all: so many more such lattices meet each reflection as often.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from spreadflow import build
from spreadflow.analysis import identity_hash
from spreadflow.analysis.curves import columns, expand, gram, planning, population
from spreadflow.analysis.curves.edges import metals
from spreadflow.analysis.curves.gram import Gram
from spreadflow.analysis.curves.planning import Information
from spreadflow.analysis.curves.population import Population
from spreadflow.analysis.pixels import lattice_fit, point_spread, shoeboxes
from spreadflow.config import (
    Config,
    SimulateConfig,
    Stage1Section,
    for_stage,
    overlay,
    parse,
    section,
)
from spreadflow.errors import ConfigError
from spreadflow.io.factor_files import NO_FILES, FactorFiles
from spreadflow.models import Noise, Overlap, Shoeboxes
from spreadflow.physics import anomalous, unit_cell
from spreadflow.recipes import factors
from spreadflow.recipes.curves import start_curves
from spreadflow.recipes.lattice import restraints_of, with_eta_axes
from spreadflow.recipes.patch import Outline, background_photons, outline
from spreadflow.recipes.still import Simulator

LATTICES = (100, 300, 1000, 3000, 10_000, 30_000, 100_000)
"""Numbers of lattices for which σ is given."""

GRIDS_EV = (1.0, 2.0, 4.0)
"""Distances of the nodes of curves, eV."""

MODEL_ERRORS = (0.3,)
"""Standard deviation of X about the model's, relative to the r.m.s. |X| of a shell: |F| of such a
model are off by 0.64 of it, R = 19 %, as ∫|x| N(x) is √(2/π), half of X's error is along F, and
mean |F| is √π/2 of its r.m.s.
"""

MAX_REFLECTIONS = 160
"""Reflections of a simulated lattice, on average, whose pixels are computed at most: no fewer than
a small protein has to 2 Å.
"""

EDGE_OF_F = 0.95
"""Finest resolution to which F is needed, relative to that of the reflections: beyond these lie
nodes whose clouds reach into their shoeboxes.
"""

Show = Callable[[int, int], None]
"""(lattices done, lattices of all cases): called as the work goes on."""


class Question(NamedTuple):
    """What a plan is asked. Fields that are left out are as configured; several values make several
    cases or ranges.
    """

    n_lattices: int
    """number of simulated lattices, from which all figures are scaled; even, for two halves"""
    d_min: Sequence[float] = ()
    """Å"""
    d_max: Sequence[float] = ()
    """Å; as configured: those of `annulus`, `spread` and `wide`"""
    grids_ev: Sequence[float] = GRIDS_EV
    band_ev: tuple[float, float] | None = None
    """energies at which σ counts; None: those about the sites' edges"""
    n_cells: Sequence[int] = ()
    """cells along an edge of a mosaic domain"""
    psf_fwhm_mm: Sequence[float] = ()
    """widths of the point spread"""
    model_errors: Sequence[float] = MODEL_ERRORS
    """standard deviations of X, the F beside the sites' f′ and f″, about the model's, relative to
    the r.m.s. |X| of a shell; none are asked for where `spread` takes X for known
    """


class Case(NamedTuple):
    """A crystal and detector."""

    n_cells: int
    psf_fwhm_mm: float
    config: SimulateConfig


def run(
    config: Config,
    question: Question,
    files: FactorFiles = NO_FILES,
    show: Show = lambda done, total: None,
) -> dict[str, Any]:
    """Return the figures of a plan, with the keys of docs/summaries.md: a row for each case, range,
    error of the model, grid and restraint.

    files: what the files hold that `structure_factors` names. Raises ConfigError.
    """
    n_lattices = question.n_lattices
    _check_halves(n_lattices)
    start_time = time.process_time()
    ranges = _ranges(config, question.d_min, question.d_max)
    finest = EDGE_OF_F * min(low for low, _ in ranges)
    cases = list(_cases(config, question.n_cells, question.psf_fwhm_mm, finest))
    errors = _errors(config, question.model_errors)
    first = Simulator(cases[0].config, files)
    sites = _sites(first, question.grids_ev, question.band_ev)
    scope = _scope(first, sites, question.grids_ev, config.spread.line_sigma_e)
    rows: list[dict[str, Any]] = []
    for number, case in enumerate(cases):
        simulator = Simulator(case.config, files)
        simulator.factors = first.factors
        places = _places(simulator, n_lattices, ranges)
        share = _share(places)
        lattices: list[_Lattice] = []
        for k, place in enumerate(places):
            hkl = place.predicted.hkl
            lot = identity_hash.uniform(simulator.seed, np.full(len(hkl), k), *hkl.T)
            lattices.append(_lattice(simulator, place, lot < share, ranges, config.stage1))
            show(number * n_lattices + k + 1, len(cases) * n_lattices)
        crystal = _population(simulator, ranges)
        for r, (low, high) in enumerate(ranges):
            n_reflections = sum(lattice.n_reflections[r] for lattice in lattices) / n_lattices
            if not n_reflections:
                found = f"no reflection from {low:g} to {high:g} Å"
                todo = "Give others, or move it."
                raise ConfigError("--d-min, --d-max", "ranges on the detector", found, todo)
            head = {
                "n_cells": case.n_cells,
                "psf_fwhm_mm": case.psf_fwhm_mm,
                "d_min": low,
                "d_max": high,
                "n_reflections": n_reflections,
                "share_computed": share,
            }
            information = _information(simulator, lattices, r, scope.reference) / share
            shared = []
            if errors:
                unknown = _Unknown(config.spread.unknown_f, errors, share)
                within = crystal.within(low, high)
                shared = _shared(simulator, lattices, r, within, scope, unknown)
            for row in planning.table(information, shared, scope):
                rows.append(head | _figures(row))
    return sites | {
        "goal_e": planning.GOAL_E,
        "n_simulated": n_lattices,
        "lattices": list(LATTICES),
        "rows": rows,
        "seconds": time.process_time() - start_time,
    }


def _errors(config: Config, errors: Sequence[float]) -> list[float]:
    """Return the errors of the model that are asked for, none where `spread` takes X for known.
    Raises ConfigError.
    """
    for error in errors:
        if not 0.0 < error <= 1.0:
            expected = "more than 0, at most 1, or none"
            raise ConfigError("--model-error", expected, f"{error:g}", "Correct it.")
    return [] if config.spread.unknown_f == "none" else sorted(set(errors))


def _check_halves(n_lattices: int) -> None:
    """Raise ConfigError unless the lattices make two halves."""
    if n_lattices < 2 or n_lattices % 2:
        expected = "an even number, for two halves"
        raise ConfigError("--lattices", expected, n_lattices, "Some 24 tell enough.")


def _ranges(
    config: Config, d_min: Sequence[float], d_max: Sequence[float]
) -> list[tuple[float, float]]:
    """Return ranges of resolution, each d_min with each d_max, Å. Raises ConfigError."""
    wide = config.resolved("wide")
    d_min = d_min or (config.annulus.d_min,)
    d_max = d_max or sorted({config.annulus.d_max, config.spread.d_max, wide.d_max})
    finest = config.structure_factors.d_min
    for low, high in itertools.product(d_min, d_max):
        if not finest <= low < high:
            expected = (
                f"at least structure_factors.d_min, {finest:g} Å, and less than --d-max, {high:g} Å"
            )
            raise ConfigError("--d-min", expected, f"{low:g}", "Correct it.")
    return list(itertools.product(d_min, d_max))


def _cases(
    config: Config, n_cells: Sequence[int], psf_fwhm_mm: Sequence[float], finest: float = 0.0
) -> Iterator[Case]:
    """Yield each N with each point spread. Crystals are of one volume: smaller domains are more of
    them. finest: resolution to which F is needed, Å.
    """
    tree = config.model_dump(mode="json", by_alias=True)
    crystal = config.crystal
    edge = unit_cell.volume(build.cell(crystal)) ** (1 / 3)
    own = int(build.n_cells(crystal)[0])
    for n, fwhm in itertools.product(
        n_cells or [own], psf_fwhm_mm or [config.recording.psf_fwhm_mm]
    ):
        changes: dict[str, Any] = {
            "runs": {"plan": {"simulate": {}}},
            "recording": {"psf_fwhm_mm": fwhm},
        }
        d_min = max(config.structure_factors.d_min, finest)
        changes["structure_factors"] = {"d_min": d_min}
        changes["simulate"] = {"oversample": config.stage1.oversample}
        if n != own:
            domain = n * edge * (6 / math.pi) ** (1 / 3)
            number = crystal.domains_per_crystal * (own / n) ** 3
            changes["crystal"] = {"domain_ang": domain, "domains_per_crystal": number}
        changed = parse(overlay(tree, changes))
        yield Case(
            n_cells=int(build.n_cells(changed.crystal)[0]),
            psf_fwhm_mm=fwhm,
            config=for_stage(section(changed, "simulate", "plan"), "simulate"),
        )


def _sites(
    simulator: Simulator, grids_ev: Sequence[float], band_ev: tuple[float, float] | None
) -> dict[str, Any]:
    """Return names, elements and bands of the sites. Raises ConfigError where sites, bands or grids
    make no sense.
    """
    structure = simulator.config.structure_factors
    beam = simulator.beam
    energies = simulator.energies
    if not structure.sites:
        todo = "Name at least one."
        raise ConfigError("structure_factors.sites", "the metal sites", "none", todo)
    elements = factors.elements(structure, simulator.files)
    bands = []
    for element in elements:
        edge = anomalous.nearest_edge(element, beam.energy_ev)
        about = [edge + end for end in planning.BAND_EV]
        bands.append(about if band_ev is None else list(band_ev))
    for grid in grids_ev:
        if grid < beam.channel_ev or grid >= energies[-1] - energies[0]:
            expected = (
                f"at least beam.channel_ev, {beam.channel_ev:g} eV, and less than all channels"
            )
            raise ConfigError("--grid", expected, f"{grid:g}", "Correct it.")
        nodes = planning.nodes(energies, grid)
        for site, (low, high) in zip(structure.sites, bands, strict=True):
            if not ((nodes >= low) & (nodes <= high)).any():
                channels = f"{energies[0]:g}-{energies[-1]:g} eV"
                expected = f"nodes every {grid:g} eV within the channels, {channels}"
                found = f"{low:g}-{high:g} eV of {site.label}"
                raise ConfigError("--band", expected, found, "Move the band or the beam.")
    names = [site.label for site in structure.sites]
    return {"sites": names, "elements": elements, "bands_ev": bands}


def _scope(
    simulator: Simulator, sites: dict[str, Any], grids_ev: Sequence[float], line_e: float
) -> planning.Scope:
    """Return what is asked about the curves. Edges are compared among sites of one element."""
    elements = sites["elements"]
    pairs = itertools.combinations(range(len(elements)), 2)
    return planning.Scope(
        reference=start_curves(simulator.factors),
        energies_ev=simulator.energies,
        band_ev=np.array(sites["bands_ev"]),
        shapes=metals(elements, simulator.energies),
        pairs=[(a, b) for a, b in pairs if elements[a] == elements[b]],
        lattices=LATTICES,
        grids_ev=grids_ev,
        line_e=line_e,
    )


class _Lattice(NamedTuple):
    """A simulated lattice, in each range of resolution."""

    n_reflections: np.ndarray
    """(range,)"""
    grams: list[Gram]
    """of each range, at the true curves; empty where there is no reflection at all"""
    photons: np.ndarray
    """(channel,) of its pulse"""


def _places(
    simulator: Simulator, n_lattices: int, ranges: list[tuple[float, float]]
) -> list[Outline]:
    """Return where the shoeboxes of lattices lie, in all ranges of resolution."""
    d_min = min(low for low, _ in ranges)
    d_max = max(high for _, high in ranges)
    return [outline(simulator, k, d_min=d_min, d_max=d_max) for k in range(n_lattices)]


def _share(places: Sequence[Outline]) -> float:
    """Return which share of the reflections of lattices stands for all."""
    n_reflections = sum(len(place.panel) for place in places)
    return min(1.0, MAX_REFLECTIONS * len(places) / max(n_reflections, 1))


def _lattice(
    simulator: Simulator,
    place: Outline,
    is_chosen: np.ndarray,
    ranges: list[tuple[float, float]],
    pixels: Stage1Section,
) -> _Lattice:
    """Return what the pixels of the chosen reflections (box,) bool of one lattice say about |F|².

    Restraints of the lattice are weakened to the share that these are of all: so all is that of the
    whole lattice, times the share. pixels: how lattices are modelled.
    """
    photons = place.parameters.spectrum.photons
    d = place.predicted.d
    n_reflections = np.array([np.sum((d >= low) & (d < high)) for low, high in ranges])
    if not is_chosen.any():
        return _Lattice(n_reflections, [], photons)
    boxes, noise = _pixels(simulator, place, is_chosen)
    whole = place.parameters
    rows = lattice_fit.reachable(whole, boxes)
    start = whole._replace(
        hkl=np.asarray(whole.hkl)[rows],
        f_squared=np.asarray(whole.f_squared)[rows],
    )
    space_group = simulator.crystal.space_group
    problem = lattice_fit.problem(
        with_eta_axes(start, pixels), space_group, boxes, noise, pixels.oversample
    )
    problem = problem._replace(restraints=restraints_of(pixels, start, space_group))
    model = lattice_fit.Model(problem, tuple(pixels.refine), pixels.n_cells_axes)
    dark = np.zeros(len(problem.data.photons))
    planes = lattice_fit.planes_and_scale(dark, problem.data, noise)[1]
    is_in_range = [(d >= low) & (d < high) for low, high in ranges]
    grams = gram.grams(model, planes, [chosen[is_chosen] for chosen in is_in_range])
    left_out = float(np.mean(~is_chosen))
    unshared = left_out * np.diag(model.restraint().precision)
    grams = [one._replace(nuisance=one.nuisance - unshared) for one in grams]
    grams = [gram.of_a_share(one, left_out) for one in grams]
    return _Lattice(n_reflections, grams, photons)


def _information(
    simulator: Simulator, lattices: Sequence[_Lattice], r: int, curves: np.ndarray
) -> np.ndarray:
    """Return, for one range, the information of a lattice as each half of them has it, (half, curve
    · channel, curve · channel), at the true curves (site, 2, channel).
    """
    halves = []
    for half in (lattices[0::2], lattices[1::2]):
        grams = [lattice.grams[r] for lattice in half if lattice.grams]
        sums = np.zeros((curves.size, curves.size))
        if grams:
            of_half = columns.of_lattices(grams, simulator.factors)
            sums = expand.expand(of_half, curves).hessian
        halves.append(sums / len(half))
    return np.array(halves)


class _Unknown(NamedTuple):
    """What is not known of X."""

    kind: str
    """`spread.unknown_f`"""
    errors: list[float]
    """of the model"""
    share: float
    """of the reflections of lattices that stands for all"""


def _population(simulator: Simulator, ranges: list[tuple[float, float]]) -> Population:
    """Return the reflections of the crystal in all ranges of resolution."""
    d_min = min(low for low, _ in ranges)
    d_max = max(high for _, high in ranges)
    group = simulator.crystal.space_group
    return population.population(simulator.factors, simulator.cell, group, d_min, d_max)


def _shared(
    simulator: Simulator,
    lattices: list[_Lattice],
    r: int,
    crystal: Population,
    scope: planning.Scope,
    unknown: _Unknown,
) -> list[Information]:
    """Return, for each number of lattices, what one says that shares its reflections with so many.

    r: number of the range; crystal: the reflections of the range.
    """
    lit = [lattice for lattice in lattices if lattice.grams]
    of_lattices = columns.of_lattices([lattice.grams[r] for lattice in lit], simulator.factors)
    light = np.mean([lattice.photons for lattice in lit], axis=0)
    numbers = [n * len(lit) / len(lattices) / unknown.share for n in scope.lattices]
    out = []
    for size, alike in itertools.groupby(
        numbers, lambda number: population.size(of_lattices, crystal, number)
    ):
        few = population.few_lattices(
            of_lattices, simulator.factors, crystal, light, size, unknown.kind
        )
        matrix = population.expansion(few, scope.reference, scope.energies_ev)
        errors = unknown.errors
        of_share = population.lattice_information(few, matrix, list(alike), errors)
        out += [of_one.times(1.0 / unknown.share) for of_one in of_share]
    return out


def _pixels(simulator: Simulator, place: Outline, is_chosen: np.ndarray) -> tuple[Shoeboxes, Noise]:
    """Return the chosen shoeboxes (box,) bool, in which each pixel counts once and holds its
    expected background alone, and the noise of pixels, after any point spread is undone.
    """
    predicted = place.predicted
    recording = simulator.recording
    box_of_pixel, address = shoeboxes.addresses(place.panel, place.bbox)
    of_lattice = shoeboxes.Boxes(
        lattice=np.zeros(len(predicted.d), dtype=int),
        panel=place.panel,
        fast=predicted.fast,
        slow=predicted.slow,
        bbox=place.bbox,
    )
    overlap = shoeboxes.shared(of_lattice, box_of_pixel, address, simulator.good.shape)
    recorded = simulator.good[address]
    boxes = Shoeboxes(
        hkl=predicted.hkl.astype(np.int32),
        panel=place.panel,
        bbox=place.bbox,
        photons=np.zeros(len(box_of_pixel)),
        valid=recorded & (overlap & Overlap.LEFT_OUT == 0),
    ).chosen(is_chosen)
    recorded = recorded[is_chosen[box_of_pixel]]
    photons = background_photons(simulator, place.parameters, lattice_fit.points(boxes))
    boxes = boxes._replace(photons=photons)
    readout_photons = recording.readout_photons
    if simulator.kernel is not None:
        boxes = point_spread.undone(boxes, recorded, simulator.kernel)
        readout_photons *= point_spread.growth(simulator.kernel)
    error = math.hypot(recording.calibration_error, simulator.section.flicker)
    return boxes, Noise(readout_photons, error)


def _figures(row: planning.Row) -> dict[str, Any]:
    """Return the figures of a row, with the keys of docs/summaries.md."""
    figures: dict[str, Any] = {
        "model_error": row.model_error,
        "grid_ev": row.grid_ev,
        "restraint": row.restraint,
        "sigma_edge_difference_ev": row.sigma_edge_difference_ev,
    }
    for number, name in enumerate(planning.QUANTITIES):
        figures[f"sigma_{name}_e"] = row.sigma_e[number]
        figures[f"lattices_{name}"] = float(row.enough[number])
    return figures
