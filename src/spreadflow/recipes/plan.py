"""`spreadflow plan`: before the beam time, how well curves will be known from so many lattices.

Lattices of the configured crystal, beam and detector are made directly as shoeboxes, and what each says about the
curves is taken at the truth: no images, no fit. That is a bound: the model is right, the mosaic spread given.
"""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from spreadflow import build
from spreadflow.analysis.curves import expand, gram, planning
from spreadflow.analysis.curves.edges import metals
from spreadflow.analysis.pixels import lattice_fit, point_spread, shoeboxes
from spreadflow.analysis.pixels.likelihood import Noise
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
from spreadflow.log import Progress
from spreadflow.models import Overlap, Shoeboxes
from spreadflow.parallel import World
from spreadflow.physics import anomalous, unit_cell
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.recipes import factors
from spreadflow.recipes import lattice as pixelfit
from spreadflow.recipes import patch as patches
from spreadflow.recipes.still import Simulator

LATTICES = (100, 300, 1000, 3000, 10_000, 30_000, 100_000)
GRIDS_EV = (1.0, 2.0, 4.0)


class Case(NamedTuple):
    """A crystal and detector."""

    n_cells: int
    psf_fwhm_mm: float
    config: SimulateConfig


def run(
    config: Config,
    *,
    n_lattices: int,
    d_min: Sequence[float] = (),
    d_max: Sequence[float] = (),
    grids_ev: Sequence[float] = GRIDS_EV,
    band_ev: tuple[float, float] | None = None,
    n_cells: Sequence[int] = (),
    psf_fwhm_mm: Sequence[float] = (),
) -> dict[str, Any]:
    """Figures of a plan, keys as in docs/summaries.md: rows for each case, range, grid and restraint.

    What is not given is as configured: ranges those of `annulus`, `spread` and `wide`; one case. Raises ConfigError.
    """
    if n_lattices < 2 or n_lattices % 2:
        raise ConfigError(
            "--lattices", "an even number, for two halves", n_lattices, "Some 24 tell enough."
        )
    begun = time.process_time()
    ranges = _ranges(config, d_min, d_max)
    cases = list(_cases(config, n_cells, psf_fwhm_mm))
    rows = list[dict[str, Any]]()
    first = Simulator(cases[0].config)
    told = _sites(first, grids_ev, band_ev)
    with Progress("plan", len(cases) * n_lattices, World(), "lattices") as progress:
        for i, case in enumerate(cases):
            simulator = Simulator(case.config)
            simulator.factors = first.factors
            halves = [_Sums(np.zeros(len(ranges)), np.zeros((len(ranges), 1, 1)))] * 2
            for k in range(n_lattices):
                one = _of_lattice(simulator, k, ranges, config.stage1)
                halves[k % 2] = _Sums(*map(np.add, halves[k % 2], one))
                progress.at(i * n_lattices + k + 1)
            for r, (low, high) in enumerate(ranges):
                n, information = _means(halves, r, n_lattices)
                if not n:
                    found = f"no reflection from {low:g} to {high:g} Å"
                    raise ConfigError(
                        "--d-min, --d-max",
                        "ranges on the detector",
                        found,
                        "Give others, or move it.",
                    )
                head = {
                    "n_cells": case.n_cells,
                    "psf_fwhm_mm": case.psf_fwhm_mm,
                    "d_min": low,
                    "d_max": high,
                }
                made = _table(first, information, told, grids_ev)
                rows += [head | {"n_reflections": n} | row._asdict() for row in made]
    told |= {"goal_e": planning.GOAL_E, "n_simulated": n_lattices, "lattices": list(LATTICES)}
    return told | {"rows": rows, "seconds": time.process_time() - begun}


def _ranges(
    config: Config, d_min: Sequence[float], d_max: Sequence[float]
) -> list[tuple[float, float]]:
    """Ranges of resolution, each d_min with each d_max, Å."""
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


def _cases(config: Config, n_cells: Sequence[int], psf_fwhm_mm: Sequence[float]) -> Iterator[Case]:
    """Each N with each point spread. Crystals are of one volume: smaller domains are more of them."""
    tree = config.model_dump(mode="json", by_alias=True)
    crystal = config.crystal
    edge = unit_cell.volume(build.cell(crystal)) ** (1 / 3)
    own = int(build.n_cells(crystal)[0])
    for n, fwhm in itertools.product(
        n_cells or [own], psf_fwhm_mm or [config.detector.psf_fwhm_mm]
    ):
        changes: dict[str, Any] = {
            "runs": {"plan": {"simulate": {}}},
            "detector": {"psf_fwhm_mm": fwhm},
        }
        changes["simulate"] = {"oversample": config.stage1.oversample}
        if n != own:
            domain = n * edge * (6 / math.pi) ** (1 / 3)
            number = crystal.domains_per_crystal * (own / n) ** 3
            changes["crystal"] = {"domain_ang": domain, "domains_per_crystal": number}
        made = parse(overlay(tree, changes))
        yield Case(
            int(build.n_cells(made.crystal)[0]),
            fwhm,
            for_stage(section(made, "simulate", "plan"), "simulate"),
        )


def _sites(
    simulator: Simulator, grids_ev: Sequence[float], band_ev: tuple[float, float] | None
) -> dict[str, Any]:
    """Names, elements and bands of the sites. Raises ConfigError where they, bands or grids make no sense."""
    of = simulator.config.structure_factors
    energies = simulator.energies
    if not of.sites:
        raise ConfigError(
            "structure_factors.sites", "the metal sites", "none", "Name at least one."
        )
    elements = factors.elements(of)
    edges = [anomalous.nearest_edge(element, simulator.beam.energy_ev) for element in elements]
    bands = [
        [edge + end for end in planning.BAND_EV] if band_ev is None else list(band_ev)
        for edge in edges
    ]
    for grid in grids_ev:
        if grid < simulator.beam.channel_ev or grid >= energies[-1] - energies[0]:
            expected = f"at least beam.channel_ev, {simulator.beam.channel_ev:g} eV, and less than all channels"
            raise ConfigError("--grid", expected, f"{grid:g}", "Correct it.")
        nodes = planning.nodes(energies, grid)
        for site, (low, high) in zip(of.sites, bands, strict=True):
            if not ((nodes >= low) & (nodes <= high)).any():
                expected = f"nodes every {grid:g} eV within the channels, {energies[0]:g}-{energies[-1]:g} eV"
                raise ConfigError(
                    "--band",
                    expected,
                    f"{low:g}-{high:g} eV of {site.atom}",
                    "Move the band or the beam.",
                )
    return {"sites": [site.atom for site in of.sites], "elements": elements, "bands_ev": bands}


class _Sums(NamedTuple):
    """Over lattices, of each range."""

    n_reflections: np.ndarray
    """(range,)"""
    information: np.ndarray
    """(range, curve · channel, the same), at the true curves"""


def _means(halves: list[_Sums], r: int, n_lattices: int) -> tuple[float, np.ndarray]:
    """Reflections of a lattice, and of either half its information, in a range."""
    information = np.array([half.information[r] for half in halves]) * 2.0 / n_lattices
    return float(sum(half.n_reflections[r] for half in halves)) / n_lattices, information


def _of_lattice(
    simulator: Simulator, number: int, ranges: list[tuple[float, float]], how: Stage1Section
) -> _Sums:
    """Of one lattice."""
    d_min = min(r[0] for r in ranges)
    d_max = max(r[1] for r in ranges)
    made = patches.outline(simulator, number, d_min=d_min, d_max=d_max)
    if not len(made.panel):
        return _Sums(np.zeros(len(ranges)), np.zeros((len(ranges), 1, 1)))
    boxes, noise = _pixels(simulator, made)
    rows = lattice_fit.reachable(made.parameters, boxes)
    hkl = np.asarray(made.parameters.hkl)[rows]
    f_squared = np.asarray(made.parameters.f_squared)[rows]
    start = made.parameters._replace(hkl=hkl, f_squared=f_squared)
    of = lattice_fit.problem(start, simulator.crystal.space_group, boxes, noise, how.oversample)
    of = of._replace(known=pixelfit.known(how, start, simulator.crystal.space_group))
    model = lattice_fit.Model(of, tuple(how.refine), how.n_cells_axes)
    planes = lattice_fit.planes_and_scale(np.zeros(len(of.data.photons)), of.data, noise)[1]
    sets = [(made.predicted.d >= low) & (made.predicted.d < high) for low, high in ranges]
    true = simulator.factors
    out = []
    for told in gram.grams(model, planes, sets):
        said = expand.lattice(told, true, expand.rows(true, told.hkl))
        out.append(expand.expand(said, _curves(true)).hessian)
    return _Sums(np.sum(sets, axis=1), np.array(out))


def _curves(of: StructureFactors) -> np.ndarray:
    """(site, 2, channel) f', f'' of the sites."""
    curves = of.anomalous[: of.n_sites]
    return np.stack([curves.real, curves.imag], axis=1)


def _pixels(simulator: Simulator, made: patches.Outline) -> tuple[Shoeboxes, Noise]:
    """Each pixel once, with its expected background alone, and its noise where a point spread is undone."""
    found = made.predicted
    d = simulator.section
    hkl = made.predicted.hkl.astype(np.int32)
    of, where = shoeboxes.addresses(made.panel, made.bbox)
    every = shoeboxes.Boxes(
        np.zeros(len(found.d), dtype=int), made.panel, found.fast, found.slow, made.bbox
    )
    own = shoeboxes.shared(every, of, where, simulator.good.shape) & Overlap.LEFT_OUT == 0
    recorded = simulator.good[where]
    readout = d.readout_adu / d.quantum_gain
    boxes = Shoeboxes(hkl, made.panel, made.bbox, np.zeros(len(of)), recorded & own)
    boxes = boxes._replace(
        photons=patches.background_photons(simulator, made.parameters, lattice_fit.points(boxes))
    )
    if simulator.kernel is not None:
        boxes = point_spread.undone(boxes, recorded, simulator.kernel)
        readout *= point_spread.growth(simulator.kernel)
    return boxes, Noise(readout, math.hypot(d.gain_calibration, d.flicker))


def _table(
    simulator: Simulator, information: np.ndarray, told: dict[str, Any], grids_ev: Sequence[float]
) -> Iterator[planning.Row]:
    """Edges are compared of sites of one element."""
    of = simulator.factors
    energies = simulator.energies
    elements = told["elements"]
    return planning.table(
        information,
        _curves(of),
        energies,
        np.array(told["bands_ev"]),
        metals(elements, energies),
        lattices=LATTICES,
        grids_ev=grids_ev,
        pairs=[
            (a, b)
            for a, b in itertools.combinations(range(of.n_sites), 2)
            if elements[a] == elements[b]
        ],
    )
