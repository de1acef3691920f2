"""Peak memory of a rank of `index` on stills of several panels, of 1, 4 and 16 million pixels: of
the demo, with the same solid angle in more and smaller pixels, simulated into a temporary folder.
Each size is a program of its own.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import recorded
from spreadflow import config
from spreadflow.config import DetectorSection, PanelSection
from spreadflow.io import store
from spreadflow.parallel import World
from spreadflow.products import Index
from spreadflow.stages import simulate

CONFIG = Path(__file__).parents[1] / "config"

EDGES = (1024, 2048, 4096)
"""Pixels along an edge of the detector, all panels together."""

N_PANELS = 4
"""Panels along an edge of the detector."""

N_STILLS = 4

EDGE_MM = 340.0
"""Of the detector."""

BAR_GIB = 1.5
"""at the largest size"""


def panels(edge: int) -> DetectorSection:
    """Return a detector of `N_PANELS`² panels, edge² pixels in all."""
    size = edge // N_PANELS
    pixel_mm = EDGE_MM / edge
    corners = [(number - 0.5 * N_PANELS) * size * pixel_mm for number in range(N_PANELS)]
    return DetectorSection(
        shape=[size, size],
        pixel_mm=pixel_mm,
        panels=[
            PanelSection(origin_mm=[x, -y, -141.7], fast=[1.0, 0.0, 0.0], slow=[0.0, -1.0, 0.0])
            for y in corners
            for x in corners
        ],
    )


def simulated(demo: config.Config, edge: int, folder: Path) -> Path:
    """Return the manifest of a run of stills on a detector of edge² pixels."""
    runs = {"bench": config.RunSection(simulate=config.SimulatedShots(n_single=N_STILLS))}
    chosen = demo.model_copy(update={"runs": runs, "detector": panels(edge)})
    manifest = folder / str(edge) / "manifest.json"
    text = config.section(chosen, "simulate", "bench")
    stage = config.for_stage(text, "simulate", "bench")
    simulate.run(stage, run="bench", out=manifest, world=World())
    return manifest


def peak_gib(words: list, folder: Path) -> float:
    """Return the peak memory of a program, and of what it starts."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, "
        "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return int(done.stdout) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    demo = config.load(CONFIG / "config.yaml", CONFIG / "demo.yaml")
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for edge in EDGES:
            manifest = simulated(demo, edge, folder)
            text = folder / f"{edge}.json"
            text.write_text(config.section(demo, "index", next(iter(demo.runs))))
            words = [sys.executable, "-m", "spreadflow.cli", "index", "--config", text]
            words += ["--images", manifest, "--out", folder / f"{edge}.h5", "--ranks", "1"]
            peak = peak_gib(words, folder)
            figures[edge] = peak
            outcomes = store.attributes(folder / f"{edge}.h5", Index)["outcomes"]
            bar = f"   bar: at most {BAR_GIB}" if edge == EDGES[-1] else ""
            print(f"{edge}² pixels, {outcomes}: {peak:.2f} GiB{bar}", flush=True)
    first, last = EDGES[0], EDGES[-1]
    grown = (figures[last] - figures[first]) * 2**30
    per_pixel = grown / (last**2 - first**2)
    print(f"bytes a pixel: {per_pixel:.1f}")
    if args.json:
        sizes = {f"gib_{edge}": peak for edge, peak in figures.items()}
        recorded.save(args.json, "memory", sizes | {"bytes_per_pixel": per_pixel})


if __name__ == "__main__":
    main()
