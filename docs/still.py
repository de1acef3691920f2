"""Draws the picture of README.md from a finished demo.

python docs/still.py [--root FOLDER of data/ and results/]
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from spreadflow.io import images
from spreadflow.report import laboratory
from spreadflow.report.indexed_run import IndexedRun, rings

HERE = Path(__file__).parent
REACH_MM = 134.0
"""half the edge of the picture; beyond, in the corners, nothing is predicted"""


def brightest_shot(run: IndexedRun) -> int:
    """Return the number of the shot that holds the lattice with the most indexed spots."""
    lattice = run.product.lattices.n_indexed.argmax()
    return int(run.product.lattices.shot[lattice])


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--root", type=Path, default=HERE.parent, help="where data/demo and results/demo lie"
    )
    parser.add_argument(
        "--shot",
        type=int,
        default=None,
        help="number in the run (default: the one with most spots)",
    )
    args = parser.parse_args()

    manifest = args.root / "data/demo/manifest.json"
    product = args.root / "results/demo/demo/reindex.h5"
    run = IndexedRun("reindex", product, [manifest])
    shot = brightest_shot(run) if args.shot is None else args.shot

    figure = Figure(figsize=(8, 8))
    axes = figure.add_axes((0, 0, 1, 1))
    image = images.Source(manifest).read(shot)
    laboratory.still(axes, image, run.detector, blocks=640)
    rings(axes, run, shot, size=90)
    axes.set(xlim=(-REACH_MM, REACH_MM), ylim=(-REACH_MM, REACH_MM))
    axes.set_axis_off()
    figure.savefig(HERE / "still.png", dpi=120, facecolor="white")


if __name__ == "__main__":
    main()
