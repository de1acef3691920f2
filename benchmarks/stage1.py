"""Stage 1 on lattices made directly as shoeboxes: is what was planted found, how well is it known,
what does it cost?

Lattices of config/config.yaml, 2.1-2.5 Å, all predicted reflections, boxes as of reindex and
annulus; counting, readout and 1 % gains are noise. Data of the continuous mosaicity and of the
published 25 domains are fitted with the continuous model and with the domains given; with the right
structure factors, with those of a wrong model, and with amplitudes of merged intensities. Starts
are 0.003° (each axis), 20 % (N) and 35 % (η) off, or as a row says.
"""

import lattices  # first: it sets threads before NumPy and XLA start  # isort: skip

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize

import recorded
from lattices import FREE, PLAIN, Data
from spreadflow.analysis import orientation_matrix
from spreadflow.analysis.pixels import lattice_fit, shoeboxes, solve
from spreadflow.analysis.still import integration
from spreadflow.models import Noise, Parameters, Shoeboxes
from spreadflow.physics import geometry, rotation
from spreadflow.recipes.lattice import problem_of
from spreadflow.recipes.patch import Patch, packed_lattice
from spreadflow.units import DEG

BRIGHT = 1000.0
"""Photons of the spots whose centroids are compared, beside those of I/σ ≥ 5."""

MARGIN_MM = 0.708
"""How far beyond the predicted extent of a spot pixels count for its observed centroid, mm."""

ABOVE_SIGMA = 3.0
"""Standard deviations of the background above which pixels count for an observed centroid."""

SAME_LOSS = 1.0
"""Difference of −ln L within which two fits are the same."""

LBFGS_EVALUATIONS = 300
"""Evaluations of L-BFGS at most."""

PLANE_GAIN = 1e-3
"""Planes are at rest when they promise less than this of −ln L."""

PLANE_ROUNDS = 10
"""Rounds that bring planes to rest, at most."""

KINDS = ("bright", "strong", "bright_truth", "strong_truth", "bright_exact")
"""Offsets of centroids that are compared, see `offsets`."""


class Task(NamedTuple):
    """A row of the table: data, model, and where fits start."""

    name: str
    data: Data = PLAIN
    model: str = "continuous"
    """continuous; domains, those of the truth"""
    factors: str = "right"
    """see `lattices.model_factors`"""
    off_deg: float | None = None
    """see `lattices.off_start`"""
    n: float = 1.0
    """lattices of the row, relative to --n"""


DOMAINS = Data("domains")
SQUARES = Data(oversample=2)
FIBRE = Data(oversample=2, psf=("fiber", 0.08))
GAUSSIAN = Data(oversample=2, psf=("gauss", 0.13))
FINE = Data(detector="fine")


def of_domains(data: Data) -> Data:
    """Return the same data of lattices of the published domains."""
    return data._replace(mosaicity="domains")


TASKS = (
    Task("continuous"),
    Task("published", DOMAINS),
    Task("given", DOMAINS, "domains"),
    Task("continuous, perturbed model", factors="perturbed", n=0.5),
    Task("published, perturbed model", DOMAINS, factors="perturbed", n=0.5),
    Task("given, perturbed model", DOMAINS, "domains", "perturbed", n=0.5),
    Task("given, merged F", DOMAINS, "domains", "merged", n=0.5),
    Task("continuous, 0.1° off", off_deg=0.1),
    Task("published, 0.1° off", DOMAINS, off_deg=0.1),
    Task("given, 0.1° off", DOMAINS, "domains", off_deg=0.1),
    Task("continuous, 0.2° off", off_deg=0.2, n=0.5),
    Task("given, 0.2° off", DOMAINS, "domains", off_deg=0.2, n=0.5),
    Task("continuous, 2 x 2 squares", SQUARES, n=0.25),
    Task("given, 2 x 2 squares", of_domains(SQUARES), "domains", n=0.25),
    Task("continuous, fibre 0.08 mm", FIBRE, n=0.3),
    Task("given, fibre 0.08 mm", of_domains(FIBRE), "domains", n=0.3),
    Task("continuous, Gaussian 0.13 mm", GAUSSIAN, n=0.3),
    Task("continuous, 0.0885 mm", FINE, n=0.05),
    Task("given, 0.0885 mm", of_domains(FINE), "domains", n=0.05),
)
"""The rows of the table."""


# ---------------------------------------------------------------- figures of one lattice


def problem(task: Task, patch: Patch, number: int, is_off: bool = True) -> lattice_fit.Problem:
    """Return a lattice and its pixels, modelled as the row says; is_off: started off the truth."""
    packed = packed_lattice(patch)
    mosaic = lattices.mosaic_of(task.model, patch)
    model = lattices.run_model(task.data, task.factors)
    section = lattices.pixels_section(task.data)
    if is_off:
        off = lattices.off_start(packed, number, task.off_deg)
        return problem_of(off, mosaic, model, section)
    return problem_of(packed, mosaic, model, section, lattices.true_start(patch.parameters))


def lattice(task: Task, number: int) -> dict:
    """Return the figures of a lattice that is fitted."""
    patch = lattices.simulated(task.data, number)
    of_pixels = problem(task, patch, number)
    start_time = lattices.user_cpu()
    refined = lattice_fit.refine(of_pixels, FREE)
    seconds = lattices.user_cpu() - start_time

    truth = patch.parameters
    point = refined.fit.point
    error = errors(refined, truth)
    turn = misorientation(refined, truth)
    figures = {
        "seconds": seconds,
        "evaluations": refined.n_evaluations,
        "misorientation_deg": float(np.linalg.norm(turn)) / DEG,
        "rotation_deg": turn / DEG,
        "sigma_z": lattice_fit.sigma_z(point, of_pixels.data, of_pixels.noise),
        "is_converged": refined.fit.is_converged,
        "is_worse": point.loss > refined.loss_before,
        "names": refined.names,
        "error": error,
        "fisher": error / np.sqrt(np.diag(refined.fisher)),
        "sandwich": error / np.sqrt(np.diag(refined.sandwich)),
    }
    if task.off_deg is None:
        return figures | offsets(patch, of_pixels.boxes, point)
    from_truth = problem(task, patch, number, is_off=False)
    best = lattice_fit.refine(from_truth, FREE, is_rough=False)
    return figures | {"above_best": point.loss - best.fit.point.loss}


def misorientation(refined: lattice_fit.RefinedLattice, truth: Parameters) -> np.ndarray:
    """Return the rotation vector (3,) from the true orientation to that of a fit, rad."""
    turned = refined.parameters.crystal.A @ np.linalg.inv(truth.crystal.A)
    return rotation.vector(rotation.nearest(turned))


def errors(refined: lattice_fit.RefinedLattice, truth: Parameters) -> np.ndarray:
    """Return estimate − truth (unknown,) of each of the fit's own unknowns: ln, rad, strain, ln,
    ln.
    """
    crystal = refined.parameters.crystal
    true = truth.crystal
    coordinates = orientation_matrix.coordinates(refined.frame, crystal.A)
    true_coordinates = orientation_matrix.coordinates(refined.frame, true.A)
    turn = rotation.from_vector(coordinates[:3]) @ rotation.from_vector(true_coordinates[:3]).T
    ratios = {
        "scale": refined.parameters.scale / truth.scale,
        "n_cells": crystal.n_cells[0] / true.n_cells[0],
        "eta": crystal.eta_rad / true_eta(truth),
    }
    scale, n_cells, eta = np.log(list(ratios.values()))
    every = np.array(
        [scale, *rotation.vector(turn), *(coordinates - true_coordinates)[3:], n_cells, eta]
    )
    return every[: len(refined.names)]  # η, the last, is no unknown where domains are given


def true_eta(truth: Parameters) -> float:
    """Return η of the distribution, or the r.m.s. angle of the domains where there are some."""
    if truth.mosaic.width.any():
        return float(truth.crystal.eta_rad)
    angles = rotation.angle(truth.mosaic.rotations)
    return float(np.sqrt((angles**2).mean()))


def offsets(patch: Patch, boxes: Shoeboxes, point: solve.Point) -> dict[str, np.ndarray]:
    """Return distances of centroids of bright and of strong spots, (spot, 2) mm, radial and
    transverse: of the model's and the truth's from the observed ones, and of the model's from the
    truth's.

    boxes: as they were fitted, their point spread undone.
    """
    predicted = patch.predicted
    detector = patch.parameters.detector
    axes = geometry.radial_axes(detector, predicted.panel, predicted.fast, predicted.slow)
    axes_mm = axes * float(detector.pixel_mm)

    bragg = np.zeros(len(boxes.valid))
    bragg[boxes.valid] = point.bragg
    is_counted = is_of_spot(patch, boxes)
    observed = centres(boxes, np.where(is_counted, boxes.photons - patch.background, 0.0))
    from_truth = centres(boxes, bragg) - centres(boxes, patch.bragg)
    of_model = centres(boxes, bragg) - observed
    of_truth = centres(boxes, patch.bragg) - observed

    box = box_of_pixel(boxes)
    is_bright = np.bincount(box, patch.bragg) > BRIGHT
    is_observed = np.bincount(box, is_counted, len(boxes.panel)) > 0

    def along_axes(away: np.ndarray, is_chosen: np.ndarray) -> np.ndarray:
        return np.einsum("bc,brc->br", away, axes_mm)[is_chosen]

    out = {"bright_exact": along_axes(from_truth, is_bright)}
    for name, is_chosen in (("bright", is_bright), ("strong", is_strong(patch, boxes))):
        out[name] = along_axes(of_model, is_chosen & is_observed)
        out[f"{name}_truth"] = along_axes(of_truth, is_chosen & is_observed)
    return out


def box_of_pixel(boxes: Shoeboxes) -> np.ndarray:
    """Return the shoebox of each pixel (pixel,)."""
    return np.repeat(np.arange(len(boxes.panel)), boxes.n_pixels)


def positions(boxes: Shoeboxes) -> np.ndarray:
    """Return the positions (pixel, 2) of all pixels, fast and slow, px."""
    pixels = lattice_fit.points(boxes)
    return np.stack([pixels.fast, pixels.slow], axis=1)


def centres(boxes: Shoeboxes, weight: np.ndarray) -> np.ndarray:
    """Return the centres (box, 2), px, of the weights (pixel,) in each shoebox."""
    box = box_of_pixel(boxes)
    n = len(boxes.panel)
    total = np.bincount(box, weight, n)
    moments = [np.bincount(box, weight * along, n) for along in positions(boxes).T]
    return np.stack(moments, axis=1) / np.maximum(total, 1e-9)[:, None]


def is_of_spot(patch: Patch, boxes: Shoeboxes) -> np.ndarray:
    """Return which pixels count for observed centroids, (pixel,) bool: valid ones 3 σ above
    background within 0.7 mm of where the spot is predicted to reach.
    """
    predicted = patch.predicted
    detector = patch.parameters.detector
    axes = geometry.radial_axes(detector, predicted.panel, predicted.fast, predicted.slow)
    middle = np.stack([predicted.fast, predicted.slow], axis=1)
    extent = np.stack([predicted.radial_px, predicted.transverse_px], axis=1)
    reach = extent + MARGIN_MM / float(detector.pixel_mm)

    box = box_of_pixel(boxes)
    away = np.einsum("pc,prc->pr", positions(boxes) - middle[box], axes[box])
    is_near = (np.abs(away) < reach[box]).all(axis=1)
    above = boxes.photons - patch.background
    is_lit = above > ABOVE_SIGMA * np.sqrt(patch.background)
    return is_near & boxes.valid & is_lit


def is_strong(patch: Patch, boxes: Shoeboxes) -> np.ndarray:
    """Return which reflections are integrated with I/σ ≥ 5, (reflection,) bool."""
    detector = patch.parameters.detector
    image = np.zeros((detector.n_panels, *detector.shape), np.float32)
    mask = np.zeros(image.shape, bool)
    _, address = shoeboxes.addresses(boxes.panel, boxes.bbox)
    image[address] = boxes.photons
    mask[address] = boxes.valid
    integrated = integration.integrate(
        image, mask, patch.predicted, detector, noise=Noise(1.0, 0.01)
    )
    return np.isfinite(integrated.fast_obs)


# ---------------------------------------------------------------- beside L-BFGS


def unknowns_of(of_pixels: lattice_fit.Problem, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the unknowns (unknown,) for diffBragg's variables, 0 at the start, and their
    derivatives, with its default sigmas and bounds.

    p = low + ½(high − low)(1 + sin(σx + asin(…))): rotation within ± π, σ 10⁻³; cell within 10 %, σ
    0.1; N within 3-300 and η within 0-10°, σ 1. The scale is of the kinder type `positive`, σ 1.
    """
    crystal = of_pixels.start.crystal
    n_strains = len(of_pixels.frame.strains)
    u = x.copy()
    du = np.ones(len(x))

    rotations = slice(1, 4)
    u[rotations] = np.pi * np.sin(1e-3 * x[rotations])
    du[rotations] = np.pi * 1e-3 * np.cos(1e-3 * x[rotations])

    cell = slice(4, 4 + n_strains)
    u[cell] = 0.1 * np.sin(0.1 * x[cell])
    du[cell] = 0.01 * np.cos(0.1 * x[cell])

    bounds = [(3.0, 300.0, crystal.n_cells[0]), (1e-6, 10.0 * DEG, float(crystal.eta_rad))]
    for i, (low, high, first) in zip(range(4 + n_strains, len(x)), bounds, strict=False):
        half = 0.5 * (high - low)
        angle = x[i] + np.arcsin((first - low) / half - 1)
        value = low + half * (1 + np.sin(angle))
        u[i] = np.log(value / first)
        du[i] = half * np.cos(angle) / value
    return u, du


def race(mosaicity: str, number: int) -> dict:
    """Return how many evaluations take two fits to within a unit of the best −ln L: this one, and
    L-BFGS with diffBragg's default scaling.

    Both minimise the same function from the same start: −ln L with the planes that suit the Bragg
    photons best.
    """
    task = Task("race", Data(mosaicity), mosaicity)
    of_pixels = problem(task, lattices.simulated(task.data, number), number)
    refined = lattice_fit.refine(of_pixels, FREE, is_rough=False)
    goal = refined.fit.point.loss + SAME_LOSS

    model = lattice_fit.Model(of_pixels, FREE)
    data = of_pixels.data
    noise = of_pixels.noise
    zero = np.zeros(model.n_unknowns)
    factor, planes = lattice_fit.planes_and_scale(model.photons(zero), data, noise)
    objective = solve.Objective(model.scaled(factor), data, noise, solve.Restraint(zero, zero))
    losses = []

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal planes
        u, du = unknowns_of(of_pixels, x)
        bragg = objective.bragg(u)
        for _ in range(PLANE_ROUNDS):
            point = solve.evaluate(objective._replace(bragg=lambda _: bragg), u, planes)
            if point.nuisance_gain < PLANE_GAIN:
                break
            planes = point.planes - point.plane_step
        losses.append(point.loss)
        if point.loss < goal:
            raise StopIteration
        return point.loss, point.gradient * du

    limits = {"maxfun": LBFGS_EVALUATIONS, "maxiter": LBFGS_EVALUATIONS, "ftol": 1e-10}
    with suppress(StopIteration):
        minimize(loss, zero, jac=True, method="L-BFGS-B", options=limits | {"gtol": 1e-12})
    theirs = len(losses) if losses[-1] < goal else np.inf
    return {"ours": refined.n_evaluations, "theirs": theirs}


# ---------------------------------------------------------------- the table


def rms(parts: list[np.ndarray]) -> list[float]:
    """Return the root mean squares, radial and transverse, of (spot, 2) of all lattices."""
    return np.sqrt((np.concatenate(parts) ** 2).mean(axis=0)).tolist()


def figures_of(task: Task, fits: list[dict]) -> dict:
    """Return the figures of a row from those of its lattices."""
    columns = {name: [fit[name] for fit in fits] for name in fits[0]}

    def median(name: str) -> float:
        return float(np.median(columns[name]))

    out: dict[str, Any] = {
        name: median(name) for name in ("seconds", "evaluations", "misorientation_deg")
    }
    out |= {
        "n": len(fits),
        "sigma_z": median("sigma_z"),
        "n_worse": sum(columns["is_worse"]),
        "n_unconverged": len(fits) - sum(columns["is_converged"]),
    }
    if task.off_deg is not None:
        above = np.array(columns["above_best"])
        return out | {"found": float((above < SAME_LOSS).mean()), "furthest": float(above.max())}
    out |= errors_of(columns)
    for kind in KINDS:
        out[f"rms_mm_{kind}"] = rms(columns[kind])
        out[f"n_{kind}"] = sum(map(len, columns[kind]))
    return out


def errors_of(columns: dict[str, list]) -> dict:
    """Return figures of errors and pulls by unknown, from those of the lattices of a row."""
    names = columns["names"][0]
    error = np.array(columns["error"])
    fisher = np.array(columns["fisher"])
    sandwich = np.array(columns["sandwich"])

    def by_name(values: np.ndarray) -> dict[str, float]:
        return dict(zip(names, values.tolist(), strict=True))

    relative = by_name(np.median(np.abs(np.expm1(error)), axis=0))
    return {
        "pull_sd_fisher": by_name(fisher.std(axis=0)),
        "pull_sd_sandwich": by_name(sandwich.std(axis=0)),
        "pull_mean": by_name(fisher.mean(axis=0)),
        "bias": by_name(np.median(error, axis=0)),
        "rotation_bias_deg": np.mean(columns["rotation_deg"], axis=0).tolist(),
        "outside": {name: relative[name] for name in ("n_cells", "eta") if name in names},
    }


class Bar(NamedTuple):
    """What pulls and orientation of a row have to be."""

    way: str
    """fisher or sandwich"""
    low: float
    high: float
    """of the standard deviation of pulls"""
    largest_deg: float
    """median misorientation"""


BARS = {
    "continuous": Bar("fisher", 0.85, 1.15, 6e-4),
    "published": Bar("sandwich", 0.7, 2.0, 6e-3),
    "given": Bar("fisher", 0.85, 1.15, 5e-4),
    "continuous, fibre 0.08 mm": Bar("fisher", 0.85, 1.15, 6e-4),
    "given, fibre 0.08 mm": Bar("fisher", 0.85, 1.15, 5e-4),
    "continuous, Gaussian 0.13 mm": Bar("fisher", 0.85, 1.15, 6e-4),
}
"""Name of a row → its bar."""


class Verdict(NamedTuple):
    """Whether a row meets a bar."""

    row: str
    bar: str
    measured: str
    is_met: bool


def verdicts(rows: dict[str, dict]) -> Iterator[Verdict]:
    """Yield what became of the bars of the rows there are."""
    for name, bar in BARS.items():
        if name in rows:
            pulls = rows[name][f"pull_sd_{bar.way}"].values()
            low = min(pulls)
            high = max(pulls)
            angle = rows[name]["misorientation_deg"]
            limits = f"pulls, {bar.way}: {bar.low}-{bar.high}"
            is_met = bar.low <= low and high <= bar.high
            yield Verdict(name, limits, f"{low:.2f}-{high:.2f}", is_met)
            limit = f"misorientation <= {bar.largest_deg}°"
            yield Verdict(name, limit, f"{angle:.5f}°", angle <= bar.largest_deg)
    if "continuous" in rows:
        z = rows["continuous"]["sigma_z"]
        yield Verdict("continuous", "sigma_Z 0.97-1.03", f"{z:.3f}", 0.97 <= z <= 1.03)
    if "published" in rows:
        radial, _ = rows["published"]["rms_mm_strong"]
        yield Verdict("published", "radial <= 0.058 mm", f"{radial:.4f} mm", radial <= 0.058)
        outside = rows["published"]["outside"].values()
        measured = ", ".join(f"{value:.1%}" for value in outside)
        yield Verdict("published", "N, eta within 20 %", measured, max(outside) <= 0.2)
    if "given" in rows:
        model, _ = rows["given"]["rms_mm_strong"]
        truth, _ = rows["given"]["rms_mm_strong_truth"]
        measured = f"{model:.4f} mm, {model / truth:.3f} x"
        yield Verdict("given", "radial <= 1.05 x the truth's", measured, model <= 1.05 * truth)
    for name, row in rows.items():
        yield from _verdicts_of_any(name, row)


def _verdicts_of_any(name: str, row: dict) -> Iterator[Verdict]:
    """Yield what became of the bars that every row has."""
    measured = f"{row['n_worse']} of {row['n']}"
    yield Verdict(name, "no lattice worse", measured, row["n_worse"] == 0)
    if "found" in row:
        has_bar = "0.1" in name
        bar = "found >= 99.5 %" if has_bar else "found"
        yield Verdict(name, bar, f"{row['found']:.1%}", row["found"] >= 0.995 or not has_bar)
    most = 1.5 if "0.0885" in name else 0.5
    yield Verdict(name, f"seconds <= {most}", f"{row['seconds']:.2f}", row["seconds"] <= most)


def report(out: dict) -> None:
    """Print the bars, then what rows of other structure factors are off by."""
    for name, bar, measured, is_met in verdicts(out["rows"]):
        print(f"{name:<30}{bar:<32}{measured:<28}{'' if is_met else 'MISSED'}")
    if ratio := out["evaluations_ratio"]:
        ours = out["evaluations"]
        theirs = out["evaluations_lbfgs"]
        print(f"evaluations {ours:g}, L-BFGS {theirs:g}: {ratio:.1f} times (bar 5)")
    for name, row in out["rows"].items():
        if "bias" in row:
            shown = ("bright", "bright_truth", "bright_exact", "strong", "strong_truth")
            radial = " ".join(f"{kind} {row[f'rms_mm_{kind}'][0]:.4f}" for kind in shown)
            bias = "  ".join(f"{unknown} {value:+.2g}" for unknown, value in row["bias"].items())
            angle = f"misorientation {row['misorientation_deg']:.5f}°"
            print(f"{name}: {angle}, sigma_Z {row['sigma_z']:.3f}")
            print(f"    radial, mm: {radial}")
            print(f"    median error: {bias}")


def work(tasks: list[Task], number: int) -> list[dict]:
    """Return what each row does with one lattice; nothing where the row has fewer."""
    return [lattice(task, number) if number < task.n else {} for task in tasks]


def measure(tasks: list[Task], n_races: int, n_processes: int) -> dict:
    """Return the rows, and how many evaluations the races took."""
    fits: dict[str, list[dict]] = {task.name: [] for task in tasks}
    with ProcessPoolExecutor(n_processes, multiprocessing.get_context("spawn")) as pool:
        futures = []
        for data in dict.fromkeys(task.data for task in tasks):
            alike = [task for task in tasks if task.data == data]
            n_lattices = int(max(task.n for task in alike))
            futures += [(alike, pool.submit(work, alike, i)) for i in range(n_lattices)]
        mosaicities = ("continuous", "domains")
        races = [pool.submit(race, mosaicities[i % 2], i) for i in range(n_races)]
        for alike, future in futures:
            for task, figures in zip(alike, future.result(), strict=True):
                fits[task.name] += [figures] if figures else []
        evaluations = [future.result() for future in races]
    rows = {task.name: figures_of(task, fits[task.name]) for task in tasks}
    seconds = [rows[name]["seconds"] for name in ("continuous", "given") if name in rows]

    def median(who: str) -> float | None:
        return float(np.median([taken[who] for taken in evaluations])) if evaluations else None

    ours = median("ours")
    theirs = median("theirs")
    return {
        "rows": rows,
        "seconds_per_lattice": max(seconds, default=None),
        "evaluations": ours,
        "evaluations_lbfgs": theirs,
        "evaluations_ratio": theirs / ours if ours and theirs else None,
    }


def measured_before(args: argparse.Namespace) -> dict[str, dict]:
    """Return the same rows as another revision has them, which `--before` is the source of."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "before.json"
        command = [sys.executable, __file__, "--n", args.n, "--races", 0, "--json", path]
        command += ["--processes", args.processes]
        command += ["--rows", *args.rows] if args.rows else []
        environment = os.environ | {"PYTHONPATH": str(args.before)}
        subprocess.run(list(map(str, command)), env=environment, check=True, capture_output=True)
        return recorded.rows(path)["rows"]


def report_before(before: dict[str, dict], now: dict[str, dict]) -> None:
    """Print what rows took, and how far off they were, as another revision has them and now."""
    for name, row in now.items():
        seconds = before[name]["seconds"], row["seconds"]
        off = before[name]["misorientation_deg"], row["misorientation_deg"]
        print(f"{name:<30}{seconds[0]:.3f} -> {seconds[1]:.3f} s: {seconds[0] / seconds[1]:.2f} x;")
        print(f"{'':<30}misorientation {off[0]:.6f}° -> {off[1]:.6f}°")


def main() -> None:
    """Measure the rows that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=200, help="lattices of a row")
    parser.add_argument("--races", type=int, default=20, help="lattices that L-BFGS fits too")
    parser.add_argument("--rows", nargs="*", help="only these rows")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--before", type=Path, help="src of another revision: its rows too")
    args = parser.parse_args()
    chosen = [task for task in TASKS if not args.rows or task.name in args.rows]
    tasks = [task._replace(n=max(1, round(task.n * args.n))) for task in chosen]
    out = measure(tasks, args.races, args.processes)
    if args.json:
        recorded.save(args.json, "stage1", out)
    report(out)
    if args.before:
        report_before(measured_before(args), out["rows"])


if __name__ == "__main__":
    main()
