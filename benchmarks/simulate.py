"""What a simulated still costs: user-CPU seconds per image of the stage `simulate`, and brute force
beside it.

Stills as published: 100 channels × 25 domains, water and air, noise, compressed files, 1920² and
3840² pixels. Each process of the stage makes its images once to compile, then once more to be
measured. The brute force (`brute.c`, and the engine `exact`) works on rows of pixels evenly spread
over the same image, and is scaled to all of them.
"""

import os

from spreadflow.trial.threads import THREAD_CAPS

os.environ |= dict.fromkeys(THREAD_CAPS, "1")  # before NumPy and XLA start
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import argparse
import ctypes
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import jax
import numpy as np

import jacobian
import recorded
from spreadflow import config
from spreadflow.models import Parameters, Pixels
from spreadflow.parallel import World
from spreadflow.physics import exact, geometry, response, rotation, unit_cell
from spreadflow.recipes import still
from spreadflow.stages import simulate
from spreadflow.units import R_E_SQUARED_M2

HERE = Path(__file__).parent
DETECTORS = {1920: {}, 3840: {"shape": [3840, 3840], "pixel_mm": 0.0885}}
"""keys of the section `detector`"""
N_IMAGES = {1920: 16, 3840: 8}
"""in two files"""
N_ROWS = 48
"""rows of pixels of the brute force"""
BARS = {
    "bragg_seconds_1920": 0.15,
    "seconds_per_image_1920": 1.0,
    "seconds_per_image_3840": 4.0,
    "peak_rss_gib": 2.0,
}
PEERS_S = {1920: 180.0, 3840: 700.0}
"""user-CPU seconds per image of simtbx's fastest entry, Bragg photons alone, measured on another
still of this size (reference: performance-peers, 5)
"""


def user_cpu() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def system_cpu() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_stime


def section(size: int, oversample: int, **detector) -> str:
    """The configuration of the stage for images of size² pixels."""
    base = config.load(HERE.parent / "config" / "config.yaml")
    updates = {
        "runs": {
            "bench": config.RunSection(simulate=config.SimulatedShots(n_single=N_IMAGES[size]))
        },
        "detector": base.detector.model_copy(update=DETECTORS[size] | detector),
        "simulate": base.simulate.model_copy(
            update={"oversample": oversample, "block_shots": N_IMAGES[size] // 2}
        ),
    }
    return config.section(base.model_copy(update=updates), "simulate", "bench")


# ---------------------------------------------------------------- the stage, in processes of its
# own


def work(told: str, ranks: int, out: Path) -> None:
    """One process of the stage: seconds per image (and, with one process, how they are spent) to
    the folder `out`.
    """
    settings = config.for_stage(told, "simulate", "bench")
    world = World(ranks)
    simulator = still.Simulator(settings)
    n = settings.shots.n_single

    def images(name):
        return simulate.run(settings, run="bench", out=out / name / "manifest.json", world=world)

    with patch.object(simulate, "Simulator", lambda *_: simulator):
        images("warm")
        clocks = {"cpu": user_cpu, "system": system_cpu, "wall": time.perf_counter}
        start = {name: clock() for name, clock in clocks.items()}
        images("timed")
        found: dict = {name: (clock() - start[name]) / n for name, clock in clocks.items()}
        found["rss_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if ranks == 1:
            found["steps"] = {
                name: seconds / n
                for name, seconds in split(simulator, lambda: images("split")).items()
            }
    (out / f"{world.rank}.json").write_text(json.dumps(found))


def split(simulator: still.Simulator, images: Callable[[], None]) -> dict[str, float]:
    """User-CPU seconds of the steps, one after the other instead of side by side."""
    seconds = dict.fromkeys(("exposure", "background", "noise"), 0.0)

    def timed(name: str, function: Callable) -> Callable:
        def run(*args, **kwargs):
            start = user_cpu()
            try:
                return jax.block_until_ready(function(*args, **kwargs))
            finally:
                seconds[name] += user_cpu() - start

        return run

    with ExitStack() as stack:

        def put(owner, name, new):
            return stack.enter_context(patch.object(owner, name, new))

        put(simulator, "exposure", timed("exposure", simulator.exposure))
        put(simulator, "frame", timed("noise", simulator.frame))
        put(still, "background", timed("background", still.background))
        put(simulate, "one_behind", lambda works: (work() for work in works))
        start = user_cpu()
        images()
        total = user_cpu() - start
    bragg = seconds["exposure"] - seconds["background"]
    write = total - seconds["exposure"] - seconds["noise"]
    return {
        "bragg": bragg,
        "background": seconds["background"],
        "noise": seconds["noise"],
        "write": write,
    }


def stage(size: int, ranks: int, folder: Path, oversample: int = 1) -> dict:
    """What `work` finds in `ranks` processes; of several, the largest of each figure."""
    told = folder / f"{size}_{oversample}.json"
    out = folder / f"{size}_{oversample}_{ranks}"
    told.write_text(section(size, oversample))
    command = [
        sys.executable,
        __file__,
        "--work",
        str(told),
        "--ranks",
        str(ranks),
        "--out",
        str(out),
    ]
    launcher = ["mpiexec", "-n", str(ranks)] if ranks > 1 else []
    subprocess.run([*launcher, *command], check=True, stdout=subprocess.DEVNULL)
    found = [json.loads((out / f"{rank}.json").read_text()) for rank in range(ranks)]
    return found[0] | {name: max(one[name] for one in found) for name in ("wall", "rss_gib")}


# ---------------------------------------------------------------- brute force


class Panel(ctypes.Structure):
    """`struct panel` of brute.c."""

    _fields_ = [(name, ctypes.c_double * 3) for name in ("origin", "fast", "slow", "normal")] + [
        (name, ctypes.c_double) for name in ("pixel", "closest", "depth", "polarization")
    ]


class Peer(NamedTuple):
    """A way to compute the rows."""

    name: str
    seconds: float
    image: np.ndarray


def lattice_of(simulator: still.Simulator) -> Parameters:
    """What the photons of a lattice of random orientation depend on, all nodes included."""
    A = rotation.random(np.random.default_rng(0)) @ unit_cell.reciprocal(simulator.cell)
    everything = np.arange(len(simulator.factors.hkl))
    return simulator.parameters(simulator.pulse(0, 0), A, *simulator.mosaics(0, 1))._replace(
        hkl=simulator.factors.hkl, f_squared=simulator.factors.squared(everything)
    )


def compiled(folder: Path) -> Callable | None:
    """`brute` of brute.c; None without a compiler."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return None
    flags = ["-O3", "-march=native", "-shared", "-fPIC"]
    subprocess.run(
        [compiler, *flags, str(HERE / "brute.c"), "-o", str(folder / "brute.so"), "-lm"], check=True
    )
    return ctypes.CDLL(str(folder / "brute.so")).brute


def in_c(brute: Callable, p: Parameters, rows: np.ndarray) -> np.ndarray:
    """Photons (row, fast) of rows of panel 0."""
    d = p.detector
    vectors = (tuple(a[0]) for a in (d.origin_mm, d.fast, d.slow, geometry.normals(d)))
    panel = Panel(
        *vectors, d.pixel_mm, geometry.distances_mm(d)[0], float(response.depth(d)), p.polarization
    )
    low, high = p.hkl.min(axis=0), p.hkl.max(axis=0)
    row_of = np.full(high - low + 1, -1, np.int32)
    row_of[tuple((p.hkl - low).T)] = np.arange(len(p.hkl))
    out = np.empty((len(rows), d.shape[1]))

    def given(a, kind):
        return np.ascontiguousarray(a, kind).ctypes

    arrays = [
        given(a, kind)
        for a, kind in (
            (rows, np.int32),
            (p.spectrum.energies_ev, float),
            (p.spectrum.photons, float),
            (np.linalg.inv(p.mosaic.rotations @ p.crystal.A), float),
            (p.crystal.n_cells, float),
            (low, np.int32),
            (row_of.shape, np.int32),
            (row_of, np.int32),
            (p.f_squared, float),
        )
    ]
    a = [each.data_as(ctypes.c_void_p) for each in arrays]
    n_channels = len(p.spectrum.photons)
    n_domains = len(p.mosaic.share)
    scale = ctypes.c_double(R_E_SQUARED_M2 * p.scale / (p.beam_mm * 1e-3) ** 2)
    brute(
        ctypes.byref(panel),
        len(rows),
        a[0],
        d.shape[1],
        n_channels,
        a[1],
        a[2],
        n_domains,
        *a[3:],
        scale,
        out.ctypes.data_as(ctypes.c_void_p),
    )
    return out


def brute_force(folder: Path) -> tuple[list[Peer], np.ndarray, int]:
    """The peers' rows of one 1920² image, those of the stage's own physics, and the steps of the
    whole image.
    """
    simulator = still.Simulator(
        config.for_stage(section(1920, 1, water_mm=0.0, air_mm=0.0), "simulate", "bench")
    )
    p = lattice_of(simulator)._replace(edge_px=0.0)  # brute force knows points
    n_slow, n_fast = p.detector.shape
    rows = ((np.arange(N_ROWS) + 0.5) * n_slow / N_ROWS).astype(np.int32)
    slow, fast = (
        a.ravel() for a in np.meshgrid(rows + 0.5, np.arange(n_fast) + 0.5, indexing="ij")
    )
    points = Pixels(np.zeros(len(slow), np.int32), fast, slow)
    peers = []
    for dtype in ("float64", "float32"):
        way = partial(exact.photons, p, points, shape="gauss_argchk", dtype=dtype)
        np.asarray(way())
        peers.append(measured(f"exact, {dtype}", way))
    if brute := compiled(folder):
        peers.insert(0, measured("brute.c, double", lambda: in_c(brute, p, rows)))
    sparse = simulator.expected(p.spectrum, [p])[0][0, rows]
    return (
        peers,
        np.asarray(sparse),
        n_slow * n_fast * len(p.spectrum.photons) * len(p.mosaic.share),
    )


def measured(name: str, way: Callable) -> Peer:
    """A peer's rows and the user-CPU seconds of them, scaled to the whole image."""
    start = user_cpu()
    image = np.asarray(way()).reshape(N_ROWS, -1)
    return Peer(name, (user_cpu() - start) * image.shape[1] / N_ROWS, image)


def compared(peers: list[Peer], steps: int) -> dict[str, dict[str, float]]:
    """What each takes, over the last, and how far its rows are from those of the first."""
    truth = peers[0].image
    seen = truth > 1e-6 * truth.max()
    out = {}
    for name, seconds, image in peers:
        difference = np.abs(image - truth)
        out[name] = {
            "seconds": seconds,
            "steps_per_s": steps / seconds,
            "over_sparse": seconds / peers[-1].seconds,
            "apart_of_brightest": float(difference.max() / truth.max()),
            "apart_of_pixel": float((difference[seen] / truth[seen]).max()),
        }
    return out


# ---------------------------------------------------------------- report


def report(steps: int, stages: dict, figures: dict) -> None:
    print(
        f"Bragg photons of a 1920² still, {steps:.3g} pixels × channels × domains; user-CPU "
        "seconds, one thread"
    )
    print(
        f"  {'':16}{'s/image':>9}{'steps/s':>10}{'/ sparse':>9}   largest difference from the "
        "first, over its maximum;"
    )
    print(" " * 49 + "over its own value where that exceeds 1e-6 of the maximum")
    for name, bragg in figures["bragg"].items():
        print(
            f"  {name:16}{bragg['seconds']:9.3f}{bragg['steps_per_s']:10.2e}"
            f"{bragg['over_sparse']:9.1f}   {bragg['apart_of_brightest']:.1e} "
            f"{bragg['apart_of_pixel']:.1e}"
        )
    print(f"  all but sparse: {N_ROWS} of 1920 rows, scaled")
    print(
        "The stage, per image: user-CPU seconds of one process by step; wall seconds of one and of "
        "two processes"
    )
    names = (*stages[1920][0]["steps"], "total", "system", "1 process", "2 proc.", "GiB", "simtbx")
    print("  " + " " * 6 + "".join(f"{name:>11}" for name in names))
    for size, (one, two) in stages.items():
        clocks = (one["cpu"], one["system"], one["wall"], two["wall"])
        numbers = (*one["steps"].values(), *clocks, one["rss_gib"], PEERS_S[size])
        print(f"  {size:>5}²" + "".join(f"{number:11.3f}" for number in numbers))
    for name, bar in BARS.items():
        print(f"  {name:24}{figures[name]:7.3f}   bar: at most {bar}")
    seconds = [figures[f"{name}_1920_2x2"] for name in ("bragg_seconds", "seconds_per_image")]
    print(
        "  1920² with 2 x 2 squares a pixel, the default: Bragg {:.3f}, total {:.3f}".format(
            *seconds
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    for name, kind in (("--work", Path), ("--ranks", int), ("--out", Path)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work.read_text(), args.ranks, args.out)
        return
    with tempfile.TemporaryDirectory() as scratch:
        stages = {
            size: [stage(size, ranks, Path(scratch)) for ranks in (1, 2)] for size in DETECTORS
        }
        fine = stage(1920, 1, Path(scratch), oversample=2)
        peers, sparse, steps = brute_force(Path(scratch))
    figures = {f"seconds_per_image_{size}": one["cpu"] for size, (one, _) in stages.items()}
    figures["bragg_seconds_1920"] = stages[1920][0]["steps"]["bragg"]
    figures |= {
        "bragg_seconds_1920_2x2": fine["steps"]["bragg"],
        "seconds_per_image_1920_2x2": fine["cpu"],
    }
    figures["brute_seconds_1920"] = peers[0].seconds
    figures["ratio_1920"] = figures["brute_seconds_1920"] / figures["bragg_seconds_1920"]
    figures["peak_rss_gib"] = stages[3840][0]["rss_gib"]
    derivatives = {name: jacobian.measure(name) for name in ("domains", "continuous")}
    figures["jacobian_seconds"] = max(m["seconds"] for m in derivatives.values())
    figures |= {"stages": stages, "fine": fine, "derivatives": derivatives}
    mine = Peer("sparse", figures["bragg_seconds_1920"], sparse)
    figures["bragg"] = compared([*peers, mine], steps)
    report(steps, stages, figures)
    print(f"\n{jacobian.table(derivatives)}")
    if args.json:
        recorded.save(args.json, "simulate", figures)


if __name__ == "__main__":
    main()
