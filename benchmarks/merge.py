"""Merging of lattices drawn from the partiality model, without images: is what was planted found
again?

Each lattice has a random orientation, its own SASE-like spectrum, a scale G (log-normal) and a B
(normal). A reflection records photons = G exp(−2 B s²)·polarization·Lorentz·partiality·I with
Poisson noise of peak and background and a planted error model on top. The merging gets the
partialities of the true orientation (0°) and of orientations that are wrong by small random
rotations, as they are after refinement.

With `--parts` the same reflections, of many more lattices, are written as a product of `reindex`,
and the whole stage runs on it in a process of its own: observations a second of processor time,
user and system, and the most memory that it held.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from spreadflow.trial.threads import THREAD_CAPS

os.environ |= dict.fromkeys(THREAD_CAPS, "1")  # before NumPy and XLA start

import numpy as np

import recorded
from spreadflow.analysis import identity_hash
from spreadflow.analysis.merging import merging, scaling, selection
from spreadflow.analysis.still import prediction
from spreadflow.analysis.still.variance import own_variance
from spreadflow.errors import LatticeOutcome
from spreadflow.io import store
from spreadflow.models import Spectrum
from spreadflow.parallel import World
from spreadflow.physics import response, rotation, unit_cell
from spreadflow.products import Cells, Merge, Reindex
from spreadflow.products.core import T
from spreadflow.units import wavelength

SPACE_GROUP = "C 1 2 1"
CELL = np.array([67.2, 59.8, 47.2, 90.0, 110.3, 90.0])
D_MIN = 1.9
ENERGY_EV = 7120.0
CHANNELS_EV = np.arange(7070.5, 7170.0, 1.0)
ETA = np.deg2rad(0.05)
DOMAIN_ANG = 3000.0
WILSON_B, PHOTONS, BACKGROUND = 20.0, 8.0, 60.0
"""Å²; photons per unit of factor·⟨I⟩ at low resolution; background photons under a spot"""
SFAC = 1.2
SB = 0.8
SADD = 0.04
G_SPREAD, B_SPREAD = 0.5, 3.0
MISORIENTATION_DEG = (0.0, 0.005, 0.01)
"""r.m.s. total rotation between the true orientation and the one the partialities are predicted
with
"""
PARTIALITY_MIN, N_GROUPS = 0.05, 64
PART_SHOTS = 256
"""shots of a part, of one lattice each"""
N_DRAWN = 4000
"""lattices whose reflections are predicted; further ones of a product are these again, with scales,
B and noise of their own
"""
LEAST_PER_SECOND, MOST_GIB = 1e6, 0.8
"""bars of the whole stage"""
LAUNCHER = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([status, usage.ru_utime, usage.ru_stime, usage.ru_maxrss]))
"""
"""runs a program and says what it took: a small process, whose own memory does not count"""
PEERS = {
    "partialator unity": 7.7e4,
    "process_hkl (plain mean)": 7.5e5,
    "cctbx.xfel.merge mark1": 1.56e4,
}
"""reflections per second of processor time, measured on another set (reference: performance-peers,
section 8)
"""


class Table(NamedTuple):
    """Reflections of all lattices: what is planted and what an analysis would read."""

    lattice: np.ndarray
    hkl: np.ndarray
    """(reflection, 3) as observed"""
    unique: np.ndarray
    s2: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    lorentz_polarization: np.ndarray
    partiality: np.ndarray
    """(reflection, len(MISORIENTATION_DEG)) as predicted with each orientation error; the first is
    true
    """
    slopes: np.ndarray
    """(reflection, len(MISORIENTATION_DEG), 3) derivatives of its logarithm, predicted alike"""
    log_g: np.ndarray
    b: np.ndarray
    truth: np.ndarray
    """(unique,) intensities"""


def pulse(rng: np.random.Generator) -> np.ndarray:
    """(channel,) photons of a pulse: an envelope of 11 eV, its centre jittering by 6 eV, times
    exponential spikes.
    """
    centre = ENERGY_EV + 6.0 * rng.standard_normal()
    return (
        1e10
        * np.exp(-0.5 * ((CHANNELS_EV - centre) / 11.0) ** 2)
        * rng.exponential(size=len(CHANNELS_EV))
    )


def true_intensities(unique: merging.Unique, rng: np.random.Generator) -> np.ndarray:
    """(unique,) Wilson-distributed intensities with 3 % anomalous differences; the truth."""
    n = len(unique)
    plus = unique.friedel > 0
    amplitude = rng.standard_normal(n) + 1j * np.where(
        unique.friedel == 0, 0.0, 1.0
    ) * rng.standard_normal(n)
    amplitude[unique.mate[plus]] = amplitude[plus]
    intensity = np.abs(amplitude) ** 2 / np.where(unique.friedel == 0, 1.0, 2.0)
    bijvoet = 0.06 * rng.standard_normal(n)
    bijvoet[unique.mate[plus]] = bijvoet[plus]
    intensity *= np.exp(0.5 * unique.friedel * bijvoet - 2.0 * WILSON_B / (4.0 * unique.d**2))
    return intensity


def draw(n: int, unique: merging.Unique, seed: int) -> Table:
    """The reflections of n lattices."""
    rng = np.random.default_rng(seed)
    truth = true_intensities(unique, rng)
    B = unit_cell.reciprocal(unit_cell.radians(CELL))
    nodes = unit_cell.all_indices(B, D_MIN)
    nodes = nodes[unique.rows(nodes) >= 0]
    log_g = G_SPREAD * rng.standard_normal(n)
    b = B_SPREAD * rng.standard_normal(n)
    log_g = log_g - log_g.mean()
    b = b - b.mean()
    drawn = [_one(rng, B, nodes) for _ in range(n)]
    which = np.repeat(np.arange(n), [len(hkl) for hkl, *_ in drawn])
    hkl, lp, partiality, slopes = (np.concatenate(columns) for columns in zip(*drawn, strict=True))
    row = unique.rows(hkl)
    s2 = 1.0 / (4.0 * unique.d[row] ** 2)
    mean = PHOTONS * np.exp(log_g[which] - 2.0 * b[which] * s2) * lp * partiality[:, 0] * truth[row]
    photons, variance = _measure(rng, mean)
    return Table(
        lattice=which,
        hkl=hkl,
        unique=row,
        s2=s2,
        intensity=photons,
        variance=variance,
        lorentz_polarization=lp,
        partiality=partiality,
        slopes=slopes,
        log_g=log_g,
        b=b,
        truth=truth,
    )


def _one(
    rng: np.random.Generator, B: np.ndarray, nodes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """hkl, Lorentz·polarization, partialities and their slopes of the reflections of a lattice."""
    A = rotation.random(rng) @ B
    error = np.deg2rad(rng.standard_normal(3) / np.sqrt(3))
    spectrum = prediction.compress(Spectrum(CHANNELS_EV, pulse(rng)))
    q = nodes @ A.T
    sine = 0.5 * wavelength(ENERGY_EV) * (q * q).sum(axis=1)
    hkl = nodes[np.abs(q[:, 2] - sine) < 0.005 * np.linalg.norm(q, axis=1)]
    turned = [rotation.from_vector(size * error) @ A for size in MISORIENTATION_DEG]
    lattices = [prediction.MosaicLattice(a, ETA, DOMAIN_ANG) for a in turned]
    spots = [prediction.centroids_of(lattice, hkl, spectrum) for lattice in lattices]
    partiality = np.stack([s.partiality for s in spots], axis=1)
    keep = np.flatnonzero(partiality.max(axis=1) > 0.01)
    lp = spots[0].lorentz[keep] * response.kahn(spots[0].s1[keep].T, 1.0)
    slopes = [prediction.recorded_slopes(lattice, hkl[keep], spectrum) for lattice in lattices]
    return hkl[keep], lp, partiality[keep], np.stack(slopes, axis=1)


def _measure(rng, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Photons above background, and their variance without their own; the planted error model comes
    on top.
    """
    background = BACKGROUND * np.exp(0.5 * rng.standard_normal(len(mean)))
    planted = SFAC**2 * (mean + 2.0 * background + SB**2 * mean + (SADD * mean) ** 2)
    extra = np.sqrt(planted - mean - background) * rng.standard_normal(len(mean))
    photons = rng.poisson(mean + background) + extra - background
    return photons, 2.0 * background


def observations(table: Table, unique: merging.Unique, which: int) -> merging.Observations:
    """What is merged when the partialities are those of orientation error number `which`."""
    n = len(table.log_g)
    group = np.arange(n) * N_GROUPS // n
    partiality = table.partiality[:, which]
    shell = unique.shell[table.unique].astype(np.int8)
    relative = (
        partiality / selection.best_partiality(partiality, shell, table.lattice, group)[shell]
    )
    keep = relative >= PARTIALITY_MIN
    return merging.Observations(
        lattice=table.lattice[keep],
        group=group,
        half=identity_hash.half_sets(np.arange(n)),
        unique=table.unique[keep],
        s2=table.s2[keep],
        intensity=table.intensity[keep],
        variance=table.variance[keep],
        factor=(table.lorentz_polarization * partiality)[keep],
        partiality=relative[keep],
        slopes=table.slopes[keep, which],
    )


def run(table: Table, unique: merging.Unique, which: int) -> dict:
    """Merge, and compare with what was planted."""
    start = time.process_time()
    obs = observations(table, unique, which)
    sums = merging.Sums(obs, len(unique))
    found = scaling.scale(obs, sums, unique)
    merged = merging.merge(obs, found.intensity, found.sigma, sums)
    merged = merging.with_scatter(merged, unique)
    seconds = time.process_time() - start
    error_b = found.b - table.b
    # The scale where the lattice was measured: G exp(−2 B s²) at its reflections' mean s², free of
    # B's error.
    error_g = found.log_g - table.log_g - 2.0 * obs.s2.mean() * error_b
    measured = merged.n > 0
    raw = sums.by_unique(obs.intensity)[0][measured] / merged.n[measured]

    def cc(x):
        return float(np.corrcoef(x, table.truth[measured])[0, 1])

    model = found.error_model
    right = cc(merged.intensity[measured])
    plain = cc(raw)
    return {
        "misorientation_deg": MISORIENTATION_DEG[which],
        "n_observations": len(obs.lattice),
        "n_cycles": found.n_cycles,
        "scale_rms": float(np.sqrt(np.mean(error_g**2))),
        "scale_median": float(np.median(np.abs(error_g))),
        "b_rms": float(np.sqrt(np.mean(error_b**2))),
        "b_median": float(np.median(np.abs(error_b))),
        "sfac_error": model.sfac / SFAC - 1.0,
        "sb_error": model.sb / SB - 1.0,
        "sadd_error": model.sadd / SADD - 1.0,
        "spart": model.spart,
        "cc": right,
        "cc_plain_mean": plain,
        "cc_gain": right - plain,
        "user_cpu_s": seconds,
        "reflections_per_s": len(obs.lattice) / seconds,
    }


class Product(NamedTuple):
    """What the stage reads."""

    reindex: Path
    cells: Path
    n_reflections: int


def filled(table: type[T], n_rows: int, **planted: np.ndarray) -> T:
    """The rows of a table: the columns planted, zeros elsewhere."""
    columns = {}
    for name, column in table.described().items():
        shape = column.empty().shape[1:]
        columns[name] = planted.get(name, np.zeros((n_rows, *shape), column.dtype))
    return table(**columns)


def write_product(folder: Path, table: Table, n_lattices: int, seed: int) -> Product:
    """Write products of `reindex` and `cells` with the table's reflections, again and again."""
    rng = np.random.default_rng([seed, 1])
    shot_id = rng.integers(0, 2**63, n_lattices).astype(np.uint64)
    blocks = np.split(np.arange(n_lattices), range(PART_SHOTS, n_lattices, PART_SHOTS))
    reindex = folder / "reindex.h5"
    parts = store.Parts(reindex, Reindex, "planted", [shot_id[block].tolist() for block in blocks])
    n_reflections = 0
    for number, block in enumerate(blocks):
        own = part(table, rng, block % len(table.log_g), shot_id[block])
        n_reflections += len(own.reflections)
        parts.write(number, own)
    parts.finish(World(), run="planted")

    product = Cells(
        lattices=filled(
            Cells.lattices,
            n_lattices,
            shot_id=shot_id,
            outcome=np.full(n_lattices, LatticeOutcome.ACCEPTED),
            setting=np.tile(np.eye(3), (n_lattices, 1, 1)),
        ),
        clusters=filled(Cells.clusters, 1, mean=CELL[None]),
    )
    cells = folder / "cells.h5"
    attributes = {"runs": ["planted"], "space_group": SPACE_GROUP, "chosen": 0}
    store.write(cells, product, key="planted", **attributes)
    return Product(reindex, cells, n_reflections)


def part(table: Table, rng: np.random.Generator, which: np.ndarray, shot_id: np.ndarray) -> Reindex:
    """A part: lattices `which` of the table, measured anew."""
    first = np.searchsorted(table.lattice, np.arange(len(table.log_g) + 1))
    rows = np.concatenate([np.arange(first[i], first[i + 1]) for i in which])
    lattice = np.repeat(np.arange(len(which)), first[which + 1] - first[which])
    log_g = G_SPREAD * rng.standard_normal(len(which))
    b = B_SPREAD * rng.standard_normal(len(which))
    lp = table.lorentz_polarization[rows]
    fall_off = np.exp(log_g[lattice] - 2.0 * b[lattice] * table.s2[rows])
    mean = PHOTONS * fall_off * lp * table.partiality[rows, 0] * table.truth[table.unique[rows]]
    photons, rest = _measure(rng, mean)
    n = len(which)
    return Reindex(
        shots=filled(
            Reindex.shots,
            n,
            shot_id=shot_id,
            mean_energy_ev=np.full(n, ENERGY_EV),
            pulse_photons=np.full(n, 1e12),
        ),
        lattices=filled(Reindex.lattices, n, shot=np.arange(n), shot_id=shot_id),
        reflections=filled(
            Reindex.reflections,
            len(rows),
            lattice=lattice,
            hkl=table.hkl[rows],
            partiality=table.partiality[rows, 1],
            lorentz=lp,
            polarization=np.ones(len(rows)),
            capture=rng.uniform(0.84, 0.88, len(rows)),
            slopes=table.slopes[rows, 1],
            intensity=photons,
            sigma=np.sqrt(rest + own_variance(photons, rest)),
            sigma_background=np.sqrt(rest),
        ),
    )


def stage(product: Product, out: Path, source: Path) -> tuple[float, float, int]:
    """Run the stage as a program: seconds of user and of system, and the most memory it held, kB.

    source: folder that holds the package.
    """
    words = [sys.executable, "-m", "spreadflow.cli", "merge", "--out", str(out)]
    words += ["--config", json.dumps({"merge": {"d_min": D_MIN}})]
    words += ["--reindex", str(product.reindex), "--cells", str(product.cells)]
    command = [sys.executable, "-c", LAUNCHER, *words]
    bytecode = out.with_suffix(".bytecode")
    environment = os.environ | {"PYTHONPATH": str(source), "PYTHONPYCACHEPREFIX": str(bytecode)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    status, user, system, most_kb = json.loads(done.stdout.splitlines()[-1])
    if status:
        raise SystemExit(f"the stage failed with status {status}")
    return user, system, most_kb


def figures(product: Product, out: Path, runs: list[tuple[float, float, int]]) -> dict:
    """What the runs of a stage took; at the second, compiled loops are in its cache."""
    attributes = store.attributes(out, Merge)
    first, second = runs
    return {
        "n_observations": product.n_reflections,
        "n_used": attributes["reflections"]["used"],
        "n_cycles": int(attributes["n_cycles"]),
        "user_s": second[0],
        "system_s": second[1],
        "seconds_first": first[0] + first[1],
        "observations_per_second": product.n_reflections / (second[0] + second[1]),
        "peak_rss_gib": second[2] / 2**20,
        "peak_rss_first_gib": first[2] / 2**20,
    }


def written(folder: Path, table: Path, args: argparse.Namespace, source: Path) -> Product:
    """Have a process write the products, as the package at `source` does."""
    words = [sys.executable, __file__, "--product", str(folder), "--table", str(table)]
    words += ["--lattices", str(args.lattices), "--seed", str(args.seed)]
    environment = os.environ | {"PYTHONPATH": str(source)}
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, check=True)
    n_reflections = json.loads(done.stdout.splitlines()[-1])
    return Product(folder / "reindex.h5", folder / "cells.h5", n_reflections)


def run_parts(args: argparse.Namespace) -> dict[str, dict]:
    """Write the products, and run the stage on them: as it is here, and as `--before` has it, by
    turns.
    """
    unique = merging.Unique(CELL, SPACE_GROUP, D_MIN)
    sources = {"now": Path(merging.__file__).parents[3]}
    if args.before:
        sources = {"before": args.before, **sources}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        table = folder / "table.npz"
        np.savez(table, **draw(min(args.lattices, args.drawn), unique, args.seed)._asdict())
        products = {
            name: written(folder / name, table, args, source) for name, source in sources.items()
        }
        runs: dict[str, list] = {name: [] for name in sources}
        for _ in range(2):
            for name, source in sources.items():
                runs[name].append(stage(products[name], folder / f"{name}.h5", source))
        results = {
            name: figures(products[name], folder / f"{name}.h5", runs[name]) for name in sources
        }
        if args.before:
            results["difference"] = differences(folder)
    return results


def differences(folder: Path) -> dict[str, float]:
    """The largest relative difference of the two products in each column of numbers."""
    products = [store.read(folder / f"{name}.h5", Merge) for name in ("before", "now")]
    before, now = (product.datasets() for product in products)
    largest = {}
    for name, column in before.items():
        scale = np.nanmax(np.abs(column), initial=0.0) if column.dtype.kind == "f" else 1.0
        away = np.abs(now[name].astype(np.float64) - column) / (np.abs(column) + 1e-3 * scale)
        largest[name] = float(np.nanmax(away, initial=0.0))
    return largest


def report_parts(results: dict[str, dict]) -> None:
    """Print the figures of the whole stage beside their bars."""
    for name, figures in results.items():
        words = [f"{key} {value:.4g}" for key, value in figures.items()]
        print(f"{name:12}", ", ".join(words))
    now = results["now"]
    speed = now["observations_per_second"]
    print(f"observations/s of user + system CPU: {speed:.3g}, bar {LEAST_PER_SECOND:g}")
    print(f"peak memory: {now['peak_rss_gib']:.2f} GiB, bar {MOST_GIB}")


def report(results: list[dict]) -> None:
    """Print the table, a column per orientation error, with the bars."""
    bars = {
        "scale_rms": "1 %",
        "b_rms": "0.2 Å²",
        "sfac_error": "5 %",
        "sb_error": "5 %",
        "sadd_error": "5 %",
        "cc_gain": "0.05",
    }
    print(f"{'':24}" + "".join(f"{r['misorientation_deg']:>11g}°" for r in results) + "   bar")
    for key in results[0]:
        if key != "misorientation_deg":
            print(
                f"{key:24}"
                + "".join(f"{r[key]:>12.4g}" for r in results)
                + f"   {bars.get(key, '')}"
            )
    for name, speed in PEERS.items():
        print(f"reflections/s over {name}: {results[1]['reflections_per_s'] / speed:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lattices", type=int, help="default 5000, with --parts 40000")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--parts", action="store_true", help="the whole stage, from part files")
    parser.add_argument("--folder", type=Path, help="where the part files lie for a while")
    parser.add_argument("--before", type=Path, help="src of another revision: run its stage too")
    parser.add_argument("--drawn", type=int, default=N_DRAWN, help=f"lattices, default {N_DRAWN}")
    parser.add_argument("--product", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.lattices = args.lattices or (40000 if args.parts else 5000)
    if args.product:
        table = Table(**np.load(args.table))
        print(write_product(args.product, table, args.lattices, args.seed).n_reflections)
        return
    if args.parts:
        of_sources = run_parts(args)
        report_parts(of_sources)
        if args.json:
            recorded.save(args.json, "merge_parts", of_sources["now"] | {"all": of_sources})
        return
    unique = merging.Unique(CELL, SPACE_GROUP, D_MIN)
    table = draw(args.lattices, unique, args.seed)
    results = [run(table, unique, i) for i in range(len(MISORIENTATION_DEG))]
    print(f"{args.lattices} lattices, {len(table.lattice)} reflections drawn, to {D_MIN} Å")
    report(results)
    total = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    print(f"user CPU seconds of everything, drawing included: {total:.1f}")
    if args.json:
        figures = {"n_lattices": args.lattices, "user_cpu_s": total, "merge": results}
        recorded.save(args.json, "merge", figures)


if __name__ == "__main__":
    main()
