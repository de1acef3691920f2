"""One lattice of an annulus against its pixels: from packed shoeboxes to what stage 1 tells. No files, no ranks."""

from typing import Any, NamedTuple

import numpy as np

from spreadflow.analysis.pixels import lattice_fit, point_spread, restraints, spot_positions
from spreadflow.analysis.pixels.likelihood import Noise, variance
from spreadflow.analysis.still import prediction, refinement
from spreadflow.config import Stage1Section
from spreadflow.errors import RefinedOutcome
from spreadflow.models import Crystal, Detector, Mosaic, Overlap, Parameters, Shoeboxes, Spectrum
from spreadflow.physics import geometry, noise, symmetry, unit_cell
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.units import DEG

LOST_RAD = 0.5 * DEG
"""a lattice that turns by more is not the one that was indexed"""
NO_SCALE = 1.0
"""standard deviation of ln scale above which the photons do not tell the scale"""
KERNEL_PX = 10
"""half size of the kernel of the point spread; light that goes farther is background"""
STEP = 1e-6
"""of the strains, for the derivatives of the cell"""


class PackedLattice(NamedTuple):
    """A lattice as an annulus holds it."""

    A: np.ndarray
    eta_rad: float
    domain_ang: float
    spectrum: Spectrum
    boxes: Shoeboxes
    """valid: may be used, holds this lattice's photons alone, and is in no nearer shoebox"""
    recorded: np.ndarray
    """(pixel,) bool: may be used, whosever photons it holds"""
    reflections: dict[str, np.ndarray]
    """columns of its rows of `reflections`"""


class RunModel(NamedTuple):
    """What the lattices of a run share."""

    factors: StructureFactors
    """its channels are `energies_ev`"""
    energies_ev: np.ndarray
    space_group: str
    detector: Detector
    polarization: float
    beam_mm: float


class Start(NamedTuple):
    """Where an earlier refinement of a lattice ended."""

    A: np.ndarray
    n_cells: np.ndarray
    eta_rad: float
    scale: float


class LatticeFit(NamedTuple):
    """A lattice after its fit; `of`, `refined` are None where none was possible."""

    outcome: RefinedOutcome
    why: str = ""
    of: lattice_fit.Problem | None = None
    refined: lattice_fit.RefinedLattice | None = None


def unpack(columns: dict, i: int, d_min: float = 0.0, d_max: float = np.inf) -> PackedLattice:
    """Lattice i of the columns of a part of an annulus: reflections with d_min ≤ d < d_max, Å."""
    d = columns["reflections/d"]
    rows = np.flatnonzero((columns["reflections/lattice"] == i) & (d >= d_min) & (d < d_max))
    table = {n.split("/")[1]: c[rows] for n, c in columns.items() if n.startswith("reflections/")}
    fast0, fast1, slow0, slow1 = table["bbox"].T.astype(np.int64)
    n = (fast1 - fast0) * (slow1 - slow0)
    at = np.repeat(table["first_pixel"] - np.cumsum(n) + n, n) + np.arange(n.sum())
    recorded = columns["pixels/valid"][at]
    valid = recorded & (columns["pixels/overlap"][at] & Overlap.LEFT_OUT == 0)
    boxes = Shoeboxes(
        table["hkl"], table["panel"], table["bbox"], columns["pixels/photons"][at], valid
    )
    spectrum = Spectrum(
        *(columns[f"spectra/{f}"][columns["lattices/spectrum"][i]] for f in Spectrum._fields)
    )
    A, eta_rad, domain_ang = (
        columns[f"lattices/{name}"][i] for name in ("A", "eta_rad", "domain_ang")
    )
    return PackedLattice(A, eta_rad, domain_ang, _lit(spectrum), boxes, recorded, table)


def _lit(spectrum: Spectrum) -> Spectrum:
    """Without the empty channels that pad the spectra of a product, and without negative photons."""
    energies = np.asarray(spectrum.energies_ev)
    n = 1 + int(np.argmin(np.append(np.diff(energies) > 0, False)))
    return Spectrum(
        energies[:n], np.maximum(np.asarray(spectrum.photons, dtype=np.float64)[:n], 0.0)
    )


def start(packed: PackedLattice, spread: Mosaic, given: RunModel) -> Parameters:
    """Where the fit begins: orientation and cell as predicted with, N of the domain's volume, all nodes in reach.

    η as predicted with, or that of a learned spread.
    """
    volume = unit_cell.volume(unit_cell.cell_of(packed.A))
    n_cells = np.full(3, max(packed.domain_ang / volume ** (1 / 3), 5.0))
    of_spectrum = np.isin(given.energies_ev, packed.spectrum.energies_ev)
    factors = given.factors._replace(anomalous=given.factors.anomalous[:, of_spectrum])
    every = np.broadcast_to(1.0, (len(factors.hkl), of_spectrum.sum()))
    crystal = Crystal(
        packed.A, n_cells, np.float64(packed.eta_rad if spread.eta_rad is None else spread.eta_rad)
    )
    shared = (given.beam_mm, packed.spectrum, given.polarization, given.detector)
    whole = Parameters(crystal, spread, np.float64(1.0), *shared, factors.hkl, every)
    rows = lattice_fit.reachable(whole, packed.boxes)
    return whole._replace(hkl=factors.hkl[rows], f_squared=factors.squared(rows))


def problem(
    packed: PackedLattice,
    spread: Mosaic,
    given: RunModel,
    section: Stage1Section,
    near: Start | None = None,
) -> lattice_fit.Problem:
    """The lattice and its pixels, their point spread undone, started where prediction has it, or near.

    Raises ArithmeticError, LinAlgError, ValueError for what a lattice may be like.
    """
    boxes = packed.boxes
    readout = section.readout_photons
    if section.psf_fwhm_mm:
        kernel = noise.POINT_SPREADS[section.psf](
            section.psf_fwhm_mm, float(given.detector.pixel_mm), KERNEL_PX
        )
        boxes = point_spread.undone(boxes, packed.recorded, kernel)
        readout = readout * point_spread.growth(kernel)
    begun = start(packed if near is None else packed._replace(A=near.A), spread, given)
    indexed = begun._replace(crystal=begun.crystal._replace(A=packed.A))
    if near is not None:
        begun = begun._replace(
            crystal=Crystal(near.A, near.n_cells, np.float64(near.eta_rad)), scale=near.scale
        )
    of_pixels = Noise(readout, section.calibration_error)
    of = lattice_fit.problem(begun, given.space_group, boxes, of_pixels, section.oversample)
    return of._replace(known=known(section, indexed, given.space_group))


def known(
    section: Stage1Section, indexed: Parameters, space_group: str
) -> restraints.Restraints | None:
    """What the configuration tells of a lattice beside its pixels. indexed: where a fit starts, what is not told.

    To first order: σ of N and η are those of ln N and ln η times the value they are centred at.
    """
    of = section.restraints
    if not of.given():
        return None
    crystal = indexed.crystal
    at = refinement.frame(indexed.crystal.A, space_group)
    if of.cell is not None and of.cell.centre is not None:
        at = at._replace(metric=_metric(of.cell.centre, space_group))
    A = (
        at.U
        @ np.linalg.cholesky(at.metric).T
        / (1.0 + (of.wavelength.centre if of.wavelength else 0.0))
    )
    n_cells = np.full(3, of.n_cells.centre) if of.n_cells and of.n_cells.centre else crystal.n_cells
    eta_rad = np.float64(of.eta.centre * DEG if of.eta and of.eta.centre else crystal.eta_rad)
    scale = np.float64(of.scale.centre if of.scale and of.scale.centre else np.nan)
    detector = geometry.shifted(
        indexed.detector, 0.0, 0.0, of.distance.centre if of.distance else 0.0
    )
    units = {"rotation": DEG, "n_cells": 1.0 / n_cells[0], "eta": DEG / eta_rad}
    about = indexed._replace(crystal=Crystal(A, n_cells, eta_rad), scale=scale, detector=detector)
    return restraints.Restraints(
        about, {name: r.sigma * units.get(name, 1.0) for name, r in of.given().items()}
    )


def _metric(cell: list[float], space_group: str) -> np.ndarray:
    """Reciprocal metric (3, 3) of a cell a b c (Å) α β γ (degrees)."""
    B = unit_cell.reciprocal(symmetry.constrain_cell(unit_cell.radians(cell), space_group))
    return B.T @ B


def refine(
    packed: PackedLattice,
    spread: Mosaic,
    given: RunModel,
    section: Stage1Section,
    near: Start | None = None,
) -> LatticeFit:
    """The lattice against its pixels; near: do not look farther. Never raises for what a lattice may be like."""
    try:
        of = problem(packed, spread, given, section, near)
        sizes = lattice_fit.unknowns(
            tuple(section.refine), spread, len(of.frame.strains), section.n_cells_axes
        )
        n_boxes = int((np.diff(of.data.start) > 0).sum())
        if n_boxes <= sum(sizes.values()):
            return LatticeFit(RefinedOutcome.TOO_FEW, f"{n_boxes} shoeboxes")
        refined = lattice_fit.refine(
            of,
            tuple(section.refine),
            n_axes=section.n_cells_axes,
            target=section.target,
            minimizer=section.minimizer,
            is_rough=near is None,
            n_iterations=section.max_iterations,
        )
    except (np.linalg.LinAlgError, ArithmeticError, ValueError) as error:
        return LatticeFit(RefinedOutcome.LOST, str(error))
    return LatticeFit(*_judged(of, refined), of, refined)


def _judged(
    of: lattice_fit.Problem, refined: lattice_fit.RefinedLattice
) -> tuple[RefinedOutcome, str]:
    A = refined.parameters.crystal.A
    sigma = np.sqrt(np.diag(refined.fisher))
    if not (
        np.isfinite(A).all() and np.isfinite(sigma).all() and np.isfinite(refined.fit.point.loss)
    ):
        return RefinedOutcome.LOST, "no finite solution"
    if (turned := np.linalg.norm(misset(of, refined))) > LOST_RAD:
        return RefinedOutcome.LOST, f"turned by {turned / DEG:.2f}°"
    if "scale" in refined.names and sigma[refined.names.index("scale")] > NO_SCALE:
        return RefinedOutcome.LOST, "no scale"
    return (
        RefinedOutcome.REFINED if refined.fit.is_converged else RefinedOutcome.NOT_CONVERGED
    ), ""


def misset(of: lattice_fit.Problem, refined: lattice_fit.RefinedLattice) -> np.ndarray:
    """(3,) rotation vector from the orientation at the start, lab frame, rad."""
    return refinement.coordinates(of.frame, refined.parameters.crystal.A)[:3]


# ---------------------------------------------------------------- what is told


def of_lattice(ended: LatticeFit, unknowns: list[str], uncertainty: str) -> dict[str, Any]:
    """The row of `lattices` of a lattice that was fitted. unknowns: of all lattices; NaN where it has them not."""
    of, refined = _fitted(ended)
    p = refined.parameters
    point = refined.fit.point
    names = refined.names
    at = [unknowns.index(name) for name in names]
    covariance = refined.sandwich if uncertainty == "sandwich" else refined.fisher
    sigma = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    return {
        "A": p.crystal.A,
        "cell": unit_cell.cell_of(p.crystal.A),
        "cell_sigma": _cell_sigma(of, point.unknowns, names, covariance),
        "misset_rad": misset(of, refined),
        "misset_sigma_rad": _picked(sigma, names, "rotation", 3),
        "n_cells": p.crystal.n_cells,
        "eta_rad": p.crystal.eta_rad,
        "scale": p.scale,
        "values": _among(len(unknowns), at, _values(of, refined)),
        "sigma_fisher": _among(len(unknowns), at, np.sqrt(np.diag(refined.fisher))),
        "sigma_sandwich": _among(len(unknowns), at, np.sqrt(np.diag(refined.sandwich))),
        "correlation": _among(
            len(unknowns), at, covariance / np.maximum(np.outer(sigma, sigma), 1e-300)
        ),
        "loss_before": refined.loss_before,
        "loss_after": point.loss,
        "sigma_z": lattice_fit.sigma_z(point, of.data, of.noise),
        "n_evaluations": refined.n_evaluations,
        "n_boxes": (np.diff(of.data.start) > 0).sum(),
        "n_pixels": len(of.data.photons),
    }


def _among(n: int, at: list[int], values: np.ndarray) -> np.ndarray:
    """(n,) or (n, n) with the values at those places, NaN elsewhere."""
    out = np.full((n,) * values.ndim, np.nan)
    out[np.ix_(*[at] * values.ndim)] = values
    return out


def _fitted(ended: LatticeFit) -> tuple[lattice_fit.Problem, lattice_fit.RefinedLattice]:
    assert ended.of is not None and ended.refined is not None
    return ended.of, ended.refined


def _picked(values: np.ndarray, names: list[str], kind: str, n: int) -> np.ndarray:
    """(n,) those of a kind; NaN where it is held."""
    rows = [i for i, name in enumerate(names) if name.startswith(f"{kind}_")]
    return values[rows] if rows else np.full(n, np.nan)


def _values(of: lattice_fit.Problem, refined: lattice_fit.RefinedLattice) -> np.ndarray:
    """(unknown,) ln scale, ln N and ln η themselves; rotation, strains, mm and relative wavelength from the start."""
    crystal = refined.parameters.crystal
    out = refined.fit.point.unknowns.copy()
    own = {"scale": refined.parameters.scale, "eta": crystal.eta_rad, "n_cells": crystal.n_cells[0]}
    own |= {f"n_cells_{i + 1}": n for i, n in enumerate(crystal.n_cells)}
    turned = misset(of, refined)
    for i, name in enumerate(refined.names):
        if name in own:
            out[i] = np.log(own[name])
        elif name.startswith("rotation_"):
            out[i] = turned[int(name[-1]) - 1]
    return out


def _cell_sigma(
    of: lattice_fit.Problem, unknowns: np.ndarray, names: list[str], covariance: np.ndarray
) -> np.ndarray:
    """(6,) standard deviations of the cell, Å and rad; NaN where it is held."""
    rows = [i for i, name in enumerate(names) if name.split("_")[0] == "cell"]
    if not rows:
        return np.full(6, np.nan)
    strains = np.concatenate([np.zeros(3), unknowns[rows]])
    steps = STEP * np.eye(len(strains))[3:]

    def at(p):
        return unit_cell.cell_of(np.asarray(refinement.matrix(of.frame, p)))

    slope = np.stack([at(strains + step) - at(strains - step) for step in steps], axis=1) / (
        2 * STEP
    )
    return np.sqrt(np.einsum("ij,jk,ik->i", slope, covariance[np.ix_(rows, rows)], slope))


def of_reflections(packed: PackedLattice, ended: LatticeFit) -> dict[str, np.ndarray]:
    """Columns of `reflections` of a lattice that was fitted."""
    of, refined = _fitted(ended)
    table = packed.reflections
    point = refined.fit.point
    begin = of.data.start
    p = refined.parameters
    n = np.diff(begin)
    middle = 0.5 * (table["bbox"][:, ::2] + table["bbox"][:, 1::2])
    place = of.data.plane[:, 1:] * lattice_fit.solve.SCALE_PX + middle.repeat(n, axis=0)
    at = spot_positions.centroids(point.bragg, place, begin)
    square = (of.data.photons - point.model) ** 2 / variance(point.model, of.noise)
    z = np.sqrt(spot_positions.sums(square, begin) / np.where(n > 0, n, np.nan))
    out = {name: table[name] for name in ("hkl", "d", "panel", "fast_obs", "slow_obs")}
    out["lattice"] = np.zeros(len(n), dtype=int)
    out |= {
        "fast": at[:, 0],
        "slow": at[:, 1],
        "fast_before": table["fast"],
        "slow_before": table["slow"],
    }
    energy = packed.spectrum.mean_energy_ev
    out["delta_psi_rad"] = np.asarray(prediction.delta_psi(table["hkl"] @ p.crystal.A.T, energy))
    out["delta_psi_before_rad"] = table["delta_psi_rad"]
    out |= {"photons": spot_positions.sums(point.bragg, begin), "plane": point.planes, "sigma_z": z}
    floor = _floor(packed, of, refined, at)
    return out | {"fast_floor": floor[:, 0], "slow_floor": floor[:, 1]}


def _floor(
    packed: PackedLattice,
    of: lattice_fit.Problem,
    refined: lattice_fit.RefinedLattice,
    at: np.ndarray,
) -> np.ndarray:
    """(box, 2) px, fast and slow: where a spot drawn from the model is observed, minus the model's centroid `at`."""
    table = packed.reflections
    point = refined.fit.point
    noise = of.noise
    rng = np.random.default_rng(np.abs(np.append(table["hkl"].ravel(), len(table["d"]))))
    model = point.model
    level = point.model - point.bragg
    drawn = rng.poisson(np.maximum(model, 0.0)) * (
        1.0 + noise.calibration * rng.standard_normal(len(model))
    )
    above = drawn + noise.readout_photons * rng.standard_normal(len(model)) - level
    sigma = np.sqrt(variance(level, noise))
    out = np.full((len(table["d"]), 2), np.nan)
    for box in np.flatnonzero(np.isfinite(table["fast_obs"])):
        corner = packed.boxes.bbox[box, ::2]
        seen = spot_positions.observed(*(image(of, int(box), values) for values in (above, sigma)))
        out[box] = corner + seen - at[box]
    return out


def samples(packed: PackedLattice, ended: LatticeFit, n: int) -> dict[str, dict[str, np.ndarray]]:
    """Tables `samples` and `sample_pixels`: data and model in the n shoeboxes that stand out most."""
    of, refined = _fitted(ended)
    point = refined.fit.point
    table = packed.reflections
    strength = np.nan_to_num(table["intensity"] / np.maximum(table["sigma"], 1e-9))
    rows = np.argsort(-strength, kind="stable")[:n]
    z = (of.data.photons - point.model) / np.sqrt(variance(point.model, of.noise))
    kept = {
        "data": of.data.photons,
        "model": point.model,
        "background": point.model - point.bragg,
        "z": z,
    }
    pixels = {
        name: np.concatenate([np.empty(0), *(image(of, int(row), values).ravel() for row in rows)])
        for name, values in kept.items()
    }
    size = packed.boxes.n_pixels[rows]
    boxes = {"reflection": rows, "bbox": table["bbox"][rows], "first_pixel": np.cumsum(size) - size}
    return {"samples": boxes, "sample_pixels": pixels}


def image(of: lattice_fit.Problem, box: int, values: np.ndarray) -> np.ndarray:
    """(slow, fast) values (pixel that counts,) of one shoebox; NaN elsewhere."""
    fast0, fast1, slow0, slow1 = of.boxes.bbox[box]
    first = int(of.boxes.n_pixels[:box].sum())
    valid = of.boxes.valid[first : first + (fast1 - fast0) * (slow1 - slow0)]
    out = np.full(len(valid), np.nan)
    out[valid] = values[of.data.start[box] : of.data.start[box + 1]]
    return out.reshape(slow1 - slow0, fast1 - fast0)
