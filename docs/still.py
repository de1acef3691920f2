"""Draws the README's picture from a finished demo: python docs/still.py [--root FOLDER of data/ and
results/]
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from spreadflow.io import images
from spreadflow.report import index, style

HERE = Path(__file__).parent
REACH_MM = 134.0
"""half the edge of the picture; beyond, in the corners, nothing is predicted"""


def main() -> None:
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
    run = index.IndexedRun("reindex", args.root / "results/demo/demo/reindex.h5", [manifest])
    t = run.table
    row = (
        args.shot
        if args.shot is not None
        else int(t["lattices/shot"][t["lattices/n_indexed"].argmax()])
    )
    figure = Figure(figsize=(8, 8))
    axes = figure.add_axes((0, 0, 1, 1))
    style.still(axes, images.Source(manifest).read(row), run.detector, blocks=640)
    index.rings(axes, run, row, size=90)
    axes.set(xlim=(-REACH_MM, REACH_MM), ylim=(-REACH_MM, REACH_MM))
    axes.set_axis_off()
    figure.savefig(HERE / "still.png", dpi=120, facecolor="white")


if __name__ == "__main__":
    main()
