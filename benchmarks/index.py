"""User-CPU seconds per shot of the stage `index`, from the pixels in a file to integrated
reflections, by step.

The shots are stills as in config/demo.yaml (its detector, wrong β and header error), simulated into
a temporary folder, or those of `--manifest`. One thread; the first pass over the shots compiles,
the second is measured. `--before SRC` measures another checkout too, by its own script beside its
`src`, in turns with this one, so that what else the machine does falls on both alike.
"""

import os

from spreadflow.trial.threads import THREAD_CAPS

os.environ |= dict.fromkeys(THREAD_CAPS, "1")  # before NumPy and XLA start

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest.mock import patch

import hdf5plugin
import numpy as np

import recorded
from spreadflow import config
from spreadflow.analysis.still import indexing, integration, prediction, refinement, spots
from spreadflow.errors import Outcome
from spreadflow.io.images import KeptArrays, Source, read_manifest
from spreadflow.parallel import World
from spreadflow.recipes import shot
from spreadflow.stages import simulate

CONFIG = Path(__file__).parents[1] / "config"
RECORDING = config.NoiseSection()
"""How the demo's shots are recorded: as by default."""

STEPS = {
    "spots": (spots, "find"),
    "indexing": (indexing, "find_lattices"),
    "refine": (refinement, "refine"),
    "predict": (prediction, "predict"),
    "integrate": (integration, "integrate_and_learn"),
    "controls": (integration, "integrate"),
}
"""functions `shot.index` calls, and the names of their times"""
PEERS = {"CrystFEL (peakfinder8, asdf, integration)": 0.159, "DIALS (stills_process)": 1.57}
"""user-CPU seconds per image, measured on other images of the same size and kind (reference:
performance-peers, 7)
"""
BAR_S = 0.1
BAR_PEER = 0.07
"""of what DIALS needs on the same files"""


def user_cpu() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


class Stopwatch:
    """User-CPU seconds of named pieces of work."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("read", *STEPS, "rest", "total"), 0.0)

    def timed(self, name: str, work: Callable) -> Callable:
        def run(*args, **kwargs):
            start = user_cpu()
            try:
                return work(*args, **kwargs)
            finally:
                self.seconds[name] += user_cpu() - start

        return run


def simulated(demo: config.Config, n_shots: int, folder: Path) -> Path:
    """The manifest of a run of single hits made by the stage `simulate`."""
    runs = {"bench": config.RunSection(simulate=config.SimulatedShots(n_single=n_shots))}
    text = config.section(demo.model_copy(update={"runs": runs}), "simulate", "bench")
    manifest = folder / "manifest.json"
    simulate.run(
        config.for_stage(text, "simulate", "bench"), run="bench", out=manifest, world=World()
    )
    return manifest


def index(section: config.IndexSection, source: Source, watch: Stopwatch) -> np.ndarray:
    """(shot,) outcomes of all shots of a run."""
    with ExitStack() as stack:
        for name, (module, function) in STEPS.items():
            stack.enter_context(
                patch.object(module, function, watch.timed(name, getattr(module, function)))
            )
        read = watch.timed("read", partial(source.read, kept=KeptArrays()))
        work = shot.index

        def one(i: int) -> Outcome:
            found = read(i)
            if isinstance(found, Outcome):
                return found
            return work(found, section, RECORDING, source.detector, source.polarization).outcome

        ends = [watch.timed("total", one)(i) for i in range(source.n_shots)]
    watch.seconds["rest"] = watch.seconds["total"] - sum(
        watch.seconds[name] for name in ("read", *STEPS)
    )
    return np.array(ends)


def report(figures: dict) -> None:
    print(
        f"{figures['n_shots']} shots, {figures['n_indexed']} indexed; user-CPU seconds per shot, "
        "one thread, warm"
    )
    for name, seconds in figures["seconds"].items():
        print(f"  {name:10} {seconds:7.3f}{f'   bar: at most {BAR_S}' if name == 'total' else ''}")
    print("over what others need per image, measured on other images of the same size and kind:")
    for name, ratio in figures["ratios"].items():
        print(f"  {name:45} {PEERS[name]:6.3f} s   ratio {ratio:.2f}")


def compare(before: Path, manifest: Path, n_rounds: int) -> dict[str, dict[str, float]]:
    """Medians by step of another checkout, whose `src` is named, and of this one."""
    sources = {"before": before, "now": Path(__file__).parents[1] / "src"}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in sources}
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        for name, source in [*sources.items()] * n_rounds:
            script = source.resolve().parent / "benchmarks" / "index.py"
            words = [sys.executable, str(script), "--manifest", str(manifest)]
            words += ["--json", str(figures)]
            environment = os.environ | {"PYTHONPATH": str(source.resolve())}
            subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL)
            tree = json.loads(figures.read_text())
            rounds[name].append(tree.get("figures", tree)["seconds"])
    return {
        name: {step: statistics.median(row[step] for row in rows) for step in rows[0]}
        for name, rows in rounds.items()
    }


def of_stage(manifest: Path, demo: config.Config, folder: Path) -> float:
    """User CPU of the whole stage, as a program of one rank."""
    own_folder = Path(tempfile.mkdtemp(dir=folder))
    out = own_folder / "index.h5"
    text = own_folder / "index.json"
    text.write_text(config.section(demo, "index", next(iter(demo.runs))))
    words = [sys.executable, "-m", "spreadflow.cli", "index", "--config", str(text)]
    start = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run(
        [*words, "--images", str(manifest), "--out", str(out), "--ranks", "1"],
        check=True,
        capture_output=True,
    )
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - start


def of_dials(manifest: Path, crystal: config.CrystalSection, folder: Path) -> dict[str, float]:
    """Seconds of user CPU that stills_process of DIALS needs for a further still of the first of
    these files, and for its start: by difference of all its stills and one. DIALS is told the true
    cell, without which it finds no lattice here.
    """
    program = shutil.which("dials.stills_process")
    if program is None:
        raise SystemExit("no dials.stills_process on PATH: apt-get install dials")
    # Debian ships DIALS without a module that one of its steps imports and does not use here
    (folder / "xfel_mono_sim_ext.py").write_text("class bandpass_gaussian:\n    pass\n")
    cell = ",".join(f"{length:g}" for length in crystal.cell)
    (folder / "still.phil").write_text(
        f"indexing.known_symmetry.space_group={crystal.space_group.replace(' ', '')}\n"
        f"indexing.known_symmetry.unit_cell={cell}\n"
        "indexing.stills.refine_candidates_with_known_symmetry=False\n"
        "mp.nproc=1\n"
    )
    file = read_manifest(manifest).files[0]
    filters = {"HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH}  # for compressed frames
    environment = os.environ | filters | {"PYTHONPATH": str(folder)}
    seconds = {}
    for n_stills in (1, file.n_frames):
        out = folder / str(n_stills)
        out.mkdir()
        start = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        words = [program, str(folder / "still.phil"), str(manifest.parent / file.path)]
        words += [f"max_images={n_stills}"]
        subprocess.run(words, cwd=out, env=environment, check=True, capture_output=True)
        seconds[n_stills] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - start
        found = [json.loads(path.read_text()) for path in out.glob("*_integrated.expt")]
    per_still = (seconds[file.n_frames] - seconds[1]) / (file.n_frames - 1)
    return {
        "n_stills": file.n_frames,
        "n_lattices": sum(len(tree["experiment"]) for tree in found),
        "seconds_start": seconds[1] - per_still,
        "seconds_per_still": per_still,
    }


def report_both(medians: dict[str, dict[str, float]], n_rounds: int) -> None:
    print(f"user-CPU milliseconds per shot, one thread, warm; medians of {n_rounds} in turns")
    for step, now in medians["now"].items():
        before = medians["before"].get(step, float("nan"))
        print(f"  {step:10} {1e3 * before:8.1f} -> {1e3 * now:8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shots", type=int, default=24, help="to simulate")
    parser.add_argument("--manifest", type=Path, help="of images that are there already")
    parser.add_argument("--before", type=Path, help="src of another checkout: measure it too")
    parser.add_argument("--peer", action="store_true", help="measure DIALS on the same files, too")
    parser.add_argument("--rounds", type=int, default=3, help="of both, with --before")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    demo = config.load(CONFIG / "config.yaml", CONFIG / "demo.yaml")
    with tempfile.TemporaryDirectory() as folder:
        manifest = args.manifest or simulated(demo, args.shots, Path(folder))
        if args.before:
            medians = compare(args.before, manifest, args.rounds)
            report_both(medians, args.rounds)
            if args.json:
                recorded.save(args.json, "index_before", medians)
            return
        source = Source(manifest)
        index(demo.index, source, Stopwatch())
        watch = Stopwatch()
        ends = index(demo.index, source, watch)
        whole = [of_stage(manifest, demo, Path(folder)) for _ in range(2)]
        peer = of_dials(manifest, demo.crystal, Path(folder)) if args.peer else None
    start = whole[1] - watch.seconds["total"]
    per_shot = {name: seconds / len(ends) for name, seconds in watch.seconds.items()}
    figures = {
        "n_shots": len(ends),
        "n_indexed": int((ends == Outcome.INDEXED).sum()),
        "seconds": per_shot,
        "user_cpu_s": watch.seconds["total"],
        "ratios": {name: per_shot["total"] / seconds for name, seconds in PEERS.items()},
    }
    report(figures)
    figures |= {
        "seconds_per_shot_per_core": per_shot["total"],
        "seconds_start": start,
        "ratio_to_peer": None,
    }
    print(f"start of the stage: {start:.2f} s")
    if peer is not None:
        ratio = per_shot["total"] / peer["seconds_per_still"]
        figures |= {"ratio_to_peer": ratio, "peer": peer}
        print(
            f"DIALS on the same files: {peer['seconds_per_still']:.3f} s a further still, "
            f"{peer['seconds_start']:.1f} s to start, {peer['n_lattices']} lattices on "
            f"{peer['n_stills']} stills; ratio {ratio:.3f}   bar: at most {BAR_PEER}"
        )
    if args.json:
        recorded.save(args.json, "index", figures)


if __name__ == "__main__":
    main()
