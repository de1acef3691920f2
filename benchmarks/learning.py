"""Mosaicity learned from pixels: are patterns of spots those of the truth, where are the lattices,
what does it cost?

Shared: the published 25 domains in the annulus, 2.1-2.5 Å, learned from all lattices at once.
Alone: 94 domains new for every lattice, each learned from its own pixels of 2.1-20 Å. Data and
starts as of benchmarks/stage1.py. The truth is looked at to score, never to learn: η is that of the
continuous fits.
"""

import stage1  # first: it sets threads before NumPy and XLA start  # isort: skip

import argparse
import json
from pathlib import Path

import numpy as np

from spreadflow.analysis.pixels import lattice_fit, mosaic_learning
from spreadflow.physics import rotation
from spreadflow.recipes import patch as patches
from spreadflow.units import DEG

BRIGHT = 300.0
"""photons of spots whose patterns are compared"""
WIDE = {"d_min": 2.1, "d_max": 20.0}
ALONE = 1.0
"""step of the last grid where a lattice learns alone, in angular widths of a domain"""


def begun(
    made: patches.Patch, data: str, number: int
) -> tuple[lattice_fit.Problem, lattice_fit.RefinedLattice]:
    """A lattice and its continuous fit."""
    task = stage1.Task("learned", data)
    start = stage1.start(task, stage1.model(task, made), number)
    space_group = stage1.simulator(data, "coarse").crystal.space_group
    fit = lattice_fit.refine(
        lattice_fit.problem(start, space_group, made.shoeboxes, stage1.NOISE), stage1.FREE
    )
    return lattice_fit.problem(fit.parameters, space_group, made.shoeboxes, stage1.NOISE), fit


def pattern_errors(made: patches.Patch, bragg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Σ|model − truth| of the Bragg photons (valid pixel,) of each bright shoebox, and its
    resolution, Å.

    Normalised in each shoebox.
    """
    boxes = made.shoeboxes
    valid = made.shoeboxes.valid
    n = len(boxes.panel)
    box = np.repeat(np.arange(len(boxes.panel)), boxes.n_pixels)[valid]
    sums = [np.maximum(np.bincount(box, b, n), 1e-9) for b in (bragg, made.bragg[valid])]
    off = np.abs(bragg / sums[0][box] - made.bragg[valid] / sums[1][box])
    some = sums[1] > BRIGHT
    return np.bincount(box, off, n)[some], made.predicted.d[some]


def scored(made: patches.Patch, of: lattice_fit.Problem, fit: lattice_fit.RefinedLattice) -> dict:
    """Figures of a fitted lattice."""
    away = fit.parameters.crystal.A @ np.linalg.inv(made.parameters.crystal.A)
    errors, d = pattern_errors(made, fit.fit.point.bragg)
    return {
        "pattern": errors,
        "pattern_annulus": errors[d < stage1.RANGE["d_max"]],
        "sigma_z": lattice_fit.sigma_z(fit.fit.point, of.data, of.noise),
        "rotation_deg": rotation.vector(rotation.nearest(away)) / DEG,
        **stage1.offsets(made, fit.fit.point),
    }


def row(fits: list[dict]) -> dict:
    """Figures of all lattices."""

    def of(name):
        return [f[name] for f in fits]

    turns = np.array(of("rotation_deg"))
    out = {
        "pattern_error": float(np.median(np.concatenate(of("pattern")))),
        "pattern_error_annulus": float(np.median(np.concatenate(of("pattern_annulus")))),
        "sigma_z": float(np.median(of("sigma_z"))),
        "misorientation_deg": float(np.median(np.linalg.norm(turns, axis=1))),
        "misorientation_deg_relative": float(
            np.median(np.linalg.norm(turns - np.median(turns, axis=0), axis=1))
        ),
    }
    for kind in ("strong", "strong_truth", "bright", "bright_truth"):
        out[f"radial_rmsd_mm_{kind}"] = stage1.rms(of(kind))[0]
    free = [f["bright"] - f["bright_truth"] for f in fits]
    return out | {"radial_rmsd_mm_noise_free": stage1.rms(free)[0]}


def eta_of(fits: list[lattice_fit.RefinedLattice]) -> float:
    return float(np.median([f.parameters.crystal.eta_rad for f in fits]))


def refined(learned: mosaic_learning.LearnedMosaic) -> list[lattice_fit.RefinedLattice]:
    return [lattice_fit.refine(of, mosaic_learning.FREE, is_rough=False) for of in learned.problems]


def shared(n: int) -> dict:
    """The published domains, learned from n lattices together."""
    made = [stage1.patch("domains", "coarse", 1, i) for i in range(n)]
    problems, smooth = zip(*(begun(m, "domains", i) for i, m in enumerate(made)), strict=True)
    start = stage1.user_cpu()
    learned = mosaic_learning.learn(problems, eta_rad=eta_of(smooth))
    seconds = (stage1.user_cpu() - start) / n
    start = stage1.user_cpu()
    fits = refined(learned)
    rows = {
        "continuous": row([scored(*each) for each in zip(made, problems, smooth, strict=True)]),
        "learned": row([scored(*each) for each in zip(made, learned.problems, fits, strict=True)]),
    }
    rounds = [r._asdict() | {"step_deg": r.step_rad / DEG} for r in learned.rounds]
    costs = {"seconds": seconds, "seconds_refine": (stage1.user_cpu() - start) / n}
    return {"n": n, **rows, **costs, "held_out_continuous": learned.continuous, "rounds": rounds}


def alone(n: int) -> dict:
    """New domains for every lattice, learned from its own pixels; the continuous fit where held-out
    spots say so.
    """
    simulator = stage1.simulator("per_shot", "coarse")
    smooth = []
    kept = []
    seconds = []
    gains = []
    fallbacks = 0
    for i in range(n):
        made = patches.patch(simulator, i, **WIDE)
        problem, fit = begun(made, "per_shot", i)
        smooth.append(scored(made, problem, fit))
        start = stage1.user_cpu()
        learned = mosaic_learning.learn(
            [problem], eta_rad=eta_of([fit]), seeds=[(0, i)], fine=ALONE
        )
        seconds.append(stage1.user_cpu() - start)
        gains.append(learned.continuous - learned.held_out)
        fallbacks += not learned.is_better
        kept.append(scored(made, problem, refined(learned)[0]) if learned.is_better else smooth[-1])
    rows = {"continuous": row(smooth), "learned": row(kept)}
    found = {
        "n_fallbacks": fallbacks,
        "least_gain": min(gains),
        "seconds": float(np.median(seconds)),
    }
    return {"n": n, **rows, **found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shared", type=int, default=30, help="lattices that share the published domains"
    )
    parser.add_argument("--alone", type=int, default=30, help="lattices that have their own")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    out = {
        name: make(n)
        for name, make, n in (("shared", shared, args.shared), ("alone", alone, args.alone))
        if n
    }
    print(json.dumps(out, indent=1))
    if args.json:
        args.json.write_text(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()
