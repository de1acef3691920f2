"""A refined lattice as rows of the product: its own row, those of its reflections, and the pixels
of a few shoeboxes.
"""

from typing import Any

import numpy as np

from spreadflow.analysis import orientation_matrix
from spreadflow.analysis.pixels import lattice_fit, spot_positions
from spreadflow.analysis.pixels.likelihood import variance
from spreadflow.analysis.still import prediction
from spreadflow.analysis.strength import i_over_sigma
from spreadflow.physics import unit_cell
from spreadflow.products.stage1 import Reflections, SamplePixels, Samples
from spreadflow.recipes.lattice import LatticeFit, PackedLattice, misset

STRAIN_STEP = 1e-6
"""Step of the strains of the cell for the derivatives of its edges and angles, by differences."""


def lattice_row(fit: LatticeFit, unknowns: list[str], uncertainty: str) -> dict[str, Any]:
    """Return what the row of `lattices` of a lattice that was fitted has of its fit.

    unknowns: names of the unknowns of all lattices; the values of those that this lattice does not
    have are NaN. uncertainty: which σ are quoted, `sandwich` or `fisher`.
    """
    problem, refined = _fitted(fit)
    parameters = refined.parameters
    crystal = parameters.crystal
    point = refined.fit.point
    names = refined.names
    places = [unknowns.index(name) for name in names]
    covariance = refined.sandwich if uncertainty == "sandwich" else refined.fisher
    sigma = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    correlation = covariance / np.maximum(np.outer(sigma, sigma), 1e-300)
    fisher_sigma = np.sqrt(np.diag(refined.fisher))
    sandwich_sigma = np.sqrt(np.diag(refined.sandwich))
    n = len(unknowns)
    return {
        "A": crystal.A,
        "cell": unit_cell.cell_of(crystal.A),
        "cell_sigma": _cell_sigma(problem, point.unknowns, names, covariance),
        "misset_rad": misset(problem, refined),
        "misset_sigma_rad": _of_kind(sigma, names, "rotation", 3),
        "n_cells": crystal.n_cells,
        "eta_rad": crystal.eta_rms_rad,
        "eta_axes_rad": crystal.eta_axes_rad,
        "scale": parameters.scale,
        "values": _spread_out(n, places, _values(problem, refined)),
        "sigma_fisher": _spread_out(n, places, fisher_sigma),
        "sigma_sandwich": _spread_out(n, places, sandwich_sigma),
        "correlation": _spread_out(n, places, correlation),
        "loss_before": refined.loss_before,
        "loss_after": point.loss,
        "held_out_gain": fit.held_out_gain,
        "sigma_z": lattice_fit.sigma_z(point, problem.data, problem.noise),
        "n_evaluations": refined.n_evaluations,
        "n_boxes": (np.diff(problem.data.start) > 0).sum(),
        "n_pixels": len(problem.data.photons),
    }


def _fitted(fit: LatticeFit) -> tuple[lattice_fit.Problem, lattice_fit.RefinedLattice]:
    """Return problem and solution of a lattice that was fitted."""
    assert fit.problem is not None and fit.refined is not None
    return fit.problem, fit.refined


def _spread_out(n: int, places: list[int], values: np.ndarray) -> np.ndarray:
    """Return (n,) or (n, n) with the values at their places, NaN elsewhere."""
    out = np.full((n,) * values.ndim, np.nan)
    out[np.ix_(*[places] * values.ndim)] = values
    return out


def _of_kind(values: np.ndarray, names: list[str], kind: str, n: int) -> np.ndarray:
    """Return the n values of one kind of unknown; NaN where it is held."""
    rows = [i for i, name in enumerate(names) if name.startswith(f"{kind}_")]
    return values[rows] if rows else np.full(n, np.nan)


def _values(problem: lattice_fit.Problem, refined: lattice_fit.RefinedLattice) -> np.ndarray:
    """Return the unknowns (unknown,) as they are written.

    ln scale, ln N and ln η are values by themselves; rotation, strains, mm and relative wavelength
    count from the start.
    """
    parameters = refined.parameters
    crystal = parameters.crystal
    values = refined.fit.point.unknowns.copy()
    positive = {
        "scale": parameters.scale,
        "eta": crystal.eta_axes_rad[0],
        "n_cells": crystal.n_cells[0],
    }
    positive |= {f"n_cells_{i + 1}": n for i, n in enumerate(crystal.n_cells)}
    positive |= {f"eta_{i + 1}": eta_rad for i, eta_rad in enumerate(crystal.eta_axes_rad)}
    turn = misset(problem, refined)
    for i, name in enumerate(refined.names):
        if name in positive:
            values[i] = np.log(positive[name])
        elif name.startswith("rotation_"):
            values[i] = turn[int(name[-1]) - 1]
    return values


def _cell_sigma(
    problem: lattice_fit.Problem, unknowns: np.ndarray, names: list[str], covariance: np.ndarray
) -> np.ndarray:
    """Return standard deviations of the cell (6,), Å and rad; NaN where it is held."""
    rows = [i for i, name in enumerate(names) if name.split("_")[0] == "cell"]
    if not rows:
        return np.full(6, np.nan)

    def cell_at(coordinates: np.ndarray) -> np.ndarray:
        return unit_cell.cell_of(np.asarray(orientation_matrix.matrix(problem.frame, coordinates)))

    strains = np.concatenate([np.zeros(3), unknowns[rows]])
    steps = STRAIN_STEP * np.eye(len(strains))[3:]
    differences = [cell_at(strains + step) - cell_at(strains - step) for step in steps]
    slope = np.stack(differences, axis=1) / (2 * STRAIN_STEP)
    strain_covariance = covariance[np.ix_(rows, rows)]
    return np.sqrt(np.einsum("ij,jk,ik->i", slope, strain_covariance, slope))


def reflection_rows(lattice: PackedLattice, fit: LatticeFit) -> Reflections:
    """Return the rows of `reflections` of a lattice that was fitted."""
    problem, refined = _fitted(fit)
    data = problem.data
    point = refined.fit.point
    reflections = lattice.reflections
    n_pixels = np.diff(data.start)
    positions = problem.boxes.middles[problem.boxes.valid]
    centroids = spot_positions.centroids(point.bragg, positions, data.start)
    squared = (data.photons - point.model) ** 2
    squares = squared / variance(point.model, problem.noise)
    n_counted = np.where(n_pixels > 0, n_pixels, np.nan)
    mean_square = spot_positions.sums(squares, data.start) / n_counted
    q = reflections.hkl @ refined.parameters.crystal.A.T
    energy_ev = lattice.spectrum.mean_energy_ev
    floor = _noise_offsets(lattice, problem, refined, centroids)
    return Reflections(
        lattice=np.zeros(len(n_pixels), dtype=int),
        hkl=reflections.hkl,
        d=reflections.d,
        panel=reflections.panel,
        fast=centroids[:, 0],
        slow=centroids[:, 1],
        fast_before=reflections.fast,
        slow_before=reflections.slow,
        fast_obs=reflections.fast_obs,
        slow_obs=reflections.slow_obs,
        fast_floor=floor[:, 0],
        slow_floor=floor[:, 1],
        delta_psi_rad=np.asarray(prediction.delta_psi(q, energy_ev)),
        delta_psi_before_rad=reflections.delta_psi_rad,
        photons=spot_positions.sums(point.bragg, data.start),
        plane=point.planes,
        sigma_z=np.sqrt(mean_square),
    )


def _noise_offsets(
    lattice: PackedLattice,
    problem: lattice_fit.Problem,
    refined: lattice_fit.RefinedLattice,
    centroids: np.ndarray,
) -> np.ndarray:
    """Return where a spot drawn from the model is observed, minus the model's centroid: (box, 2)
    fast, slow, px.

    That is the distance that counting noise alone makes, were the model true.
    """
    reflections = lattice.reflections
    point = refined.fit.point
    noise = problem.noise
    n_boxes = len(reflections)
    seed = np.abs(np.append(reflections.hkl.ravel(), n_boxes))
    rng = np.random.default_rng(seed)
    model = point.model
    background = point.model - point.bragg
    counts = rng.poisson(np.maximum(model, 0.0))
    drawn = counts * (1.0 + noise.calibration_error * rng.standard_normal(len(model)))
    signal = drawn + noise.readout_photons * rng.standard_normal(len(model)) - background
    sigma = np.sqrt(variance(background, noise))
    offsets = np.full((n_boxes, 2), np.nan)
    for box in np.flatnonzero(np.isfinite(reflections.fast_obs)):
        corner = lattice.boxes.bbox[box, ::2]
        images = [image(problem, int(box), values) for values in (signal, sigma)]
        offsets[box] = corner + spot_positions.observed(*images) - centroids[box]
    return offsets


def sample_rows(lattice: PackedLattice, fit: LatticeFit, n: int) -> tuple[Samples, SamplePixels]:
    """Return data and model in the n shoeboxes that stand out most."""
    problem, refined = _fitted(fit)
    data = problem.data
    point = refined.fit.point
    reflections = lattice.reflections
    strength = np.nan_to_num(i_over_sigma(reflections.intensity, reflections.sigma))
    rows = np.argsort(-strength, kind="stable")[:n]
    values = {
        "data": data.photons,
        "model": point.model,
        "background": point.model - point.bragg,
        "z": (data.photons - point.model) / np.sqrt(variance(point.model, problem.noise)),
    }
    pixels = {
        name: np.concatenate(
            [np.empty(0), *(image(problem, int(row), column).ravel() for row in rows)]
        )
        for name, column in values.items()
    }
    n_pixels = lattice.boxes.n_pixels[rows]
    samples = Samples(
        reflection=rows,
        bbox=reflections.bbox[rows],
        first_pixel=np.cumsum(n_pixels) - n_pixels,
    )
    return samples, SamplePixels(**pixels)


def image(problem: lattice_fit.Problem, box: int, values: np.ndarray) -> np.ndarray:
    """Return values (pixel that counts,) of one shoebox as an image (slow, fast); NaN elsewhere."""
    boxes = problem.boxes
    start = problem.data.start
    out = np.full(len(boxes.valid), np.nan)
    own = boxes.of_box(box)
    out[own][boxes.valid[own]] = values[start[box] : start[box + 1]]
    return boxes.image(box, out)
