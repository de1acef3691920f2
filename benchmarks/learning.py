"""Mosaicity learned from pixels: are patterns of spots those of the truth, where are the lattices,
what does it cost?

Shared: the published 25 domains in the annulus, 2.1-2.5 Å, learned from all lattices at once.
Alone: 94 domains new for every lattice, each learned from its own pixels of 2.1-20 Å. Data and
starts are those of benchmarks/stage1.py. The truth is looked at to score, never to learn: η is that
of the continuous fits.
"""

import lattices  # first: it sets threads before NumPy and XLA start  # isort: skip

import argparse
import json
from pathlib import Path

import numpy as np

import recorded
import stage1
from lattices import D_MAX_ANNULUS, D_MAX_WIDEST, FREE, Data
from spreadflow.analysis.pixels import lattice_fit, mosaic_learning
from spreadflow.analysis.pixels.lattice_fit import Problem, RefinedLattice
from spreadflow.recipes.patch import Patch
from spreadflow.units import DEG

BRIGHT = 300.0
"""Photons of spots whose patterns are compared."""

SHARED = Data("domains")
"""Lattices that share the published domains."""

ALONE = Data("per_shot")
"""Lattices that have their own domains."""


def smooth_fit(patch: Patch, data: Data, number: int) -> tuple[Problem, RefinedLattice]:
    """Return a lattice that starts where its fit with the continuous model ended, and that fit."""
    problem = stage1.problem(stage1.Task("learned", data), patch, number)
    refined = lattice_fit.refine(problem, FREE)
    return lattice_fit.moved(problem, refined.parameters), refined


def pattern_errors(patch: Patch, bragg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Σ|model − truth| of the Bragg photons of each bright shoebox, normalised in each, and
    its resolution, Å. bragg: (valid pixel,) photons of the model.
    """
    boxes = patch.shoeboxes
    true = patch.bragg[boxes.valid]
    n = len(boxes.panel)
    box = np.repeat(np.arange(n), boxes.n_pixels)[boxes.valid]

    def normalised(photons: np.ndarray) -> np.ndarray:
        total = np.maximum(np.bincount(box, photons, n), 1e-9)
        return photons / total[box]

    errors = np.bincount(box, np.abs(normalised(bragg) - normalised(true)), n)
    is_bright = np.bincount(box, true, n) > BRIGHT
    return errors[is_bright], patch.predicted.d[is_bright]


def scored(patch: Patch, problem: Problem, refined: RefinedLattice) -> dict:
    """Return the figures of a fitted lattice."""
    point = refined.fit.point
    errors, d = pattern_errors(patch, point.bragg)
    return {
        "pattern": errors,
        "pattern_annulus": errors[d < D_MAX_ANNULUS],
        "sigma_z": lattice_fit.sigma_z(point, problem.data, problem.noise),
        "rotation_deg": stage1.misorientation(refined, patch.parameters) / DEG,
        **stage1.offsets(patch, problem.boxes, point),
    }


def figures_of(scores: list[dict]) -> dict:
    """Return the figures of all lattices."""
    columns = {name: [score[name] for score in scores] for name in scores[0]}
    turns = np.array(columns["rotation_deg"])
    relative = turns - np.median(turns, axis=0)
    out = {
        "pattern_error": float(np.median(np.concatenate(columns["pattern"]))),
        "pattern_error_annulus": float(np.median(np.concatenate(columns["pattern_annulus"]))),
        "sigma_z": float(np.median(columns["sigma_z"])),
        "misorientation_deg": float(np.median(np.linalg.norm(turns, axis=1))),
        "misorientation_deg_relative": float(np.median(np.linalg.norm(relative, axis=1))),
    }
    for kind in ("strong", "strong_truth", "bright", "bright_truth"):
        out[f"radial_rmsd_mm_{kind}"] = stage1.rms(columns[kind])[0]
    from_truth = [score["bright"] - score["bright_truth"] for score in scores]
    out["radial_rmsd_mm_noise_free"] = stage1.rms(from_truth)[0]
    return out


def refined_with(learned: mosaic_learning.LearnedMosaic) -> list[RefinedLattice]:
    """Return the lattices refined with the domains that were learned."""
    return [
        lattice_fit.refine(problem, mosaic_learning.FREE, is_rough=False)
        for problem in learned.problems
    ]


def shared(n: int) -> dict:
    """Return figures of the published domains, learned from n lattices together. Seconds are those
    of a second time, when all programs are compiled.
    """
    patches = [lattices.simulated(SHARED, number) for number in range(n)]
    fits = [smooth_fit(patch, SHARED, number) for number, patch in enumerate(patches)]
    problems = [problem for problem, _ in fits]
    smooth = [refined for _, refined in fits]
    lattices.learn_together(problems)  # compiles
    start_time = lattices.user_cpu()
    learned = lattices.learn_together(problems)
    learned_time = lattices.user_cpu()
    again = refined_with(learned)
    refined_time = lattices.user_cpu()
    before = [scored(*each) for each in zip(patches, problems, smooth, strict=True)]
    after = [scored(*each) for each in zip(patches, learned.problems, again, strict=True)]
    return {
        "n": n,
        "continuous": figures_of(before),
        "learned": figures_of(after),
        "seconds": (learned_time - start_time) / n,
        "seconds_refine": (refined_time - learned_time) / n,
        "held_out_continuous": learned.continuous,
        "rounds": [one._asdict() | {"step_deg": one.step_rad / DEG} for one in learned.rounds],
    }


def alone(n: int) -> dict:
    """Return figures of new domains for every lattice, learned from its own pixels; the continuous
    fit is taken where held-out spots say so.
    """
    before = []
    after = []
    seconds = []
    gains = []
    for number in range(n):
        patch = lattices.simulated(ALONE, number, d_max=D_MAX_WIDEST)
        problem, refined = smooth_fit(patch, ALONE, number)
        if number == 0:
            lattices.learn_alone(problem, number)  # compiles
        start_time = lattices.user_cpu()
        learned = lattices.learn_alone(problem, number)
        seconds.append(lattices.user_cpu() - start_time)
        gains.append(learned.continuous - learned.held_out)
        before.append(scored(patch, problem, refined))
        if learned.is_better:
            after.append(scored(patch, problem, refined_with(learned)[0]))
        else:
            after.append(before[-1])
    return {
        "n": n,
        "continuous": figures_of(before),
        "learned": figures_of(after),
        "n_fallbacks": sum(gain <= 0 for gain in gains),
        "least_gain": min(gains),
        "seconds": float(np.median(seconds)),
    }


def main() -> None:
    """Measure both, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    help_of_shared = "lattices that share the published domains"
    parser.add_argument("--shared", type=int, default=30, help=help_of_shared)
    parser.add_argument("--alone", type=int, default=30, help="lattices that have their own")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    out = {}
    if args.shared:
        out["shared"] = shared(args.shared)
    if args.alone:
        out["alone"] = alone(args.alone)
    print(json.dumps(out, indent=1))
    if args.json:
        recorded.save(args.json, "learning", out)


if __name__ == "__main__":
    main()
