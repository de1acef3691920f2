"""`spreadflow start IMAGES...`: from image files to a manifest and a configuration that works."""

import argparse
import re
import sys
from pathlib import Path

from spreadflow.cli.manifest import GEOMETRY_HELP


def add_to(words: argparse._SubParsersAction) -> None:
    """Add the word."""
    p = words.add_parser("start", help="write manifest and configuration for images")
    images_help = "image files of one run; quote patterns to have them sorted here"
    p.add_argument("images", nargs="+", metavar="IMAGES", help=images_help)
    cell_help = "of the crystals: Å and degrees"
    p.add_argument(
        "--cell", type=float, nargs=6, metavar=("A", "B", "C", "AL", "BE", "GA"), help=cell_help
    )
    p.add_argument("--space-group", help="of the crystals, by any usual name: 'P 61 2 2'")
    p.add_argument("--geometry", type=Path, metavar="FILE", help=GEOMETRY_HELP)
    p.add_argument("--run", help="name of the run (default: the folder of the images)")
    p.add_argument("--data", type=Path, default=Path("data"), help="folder of the runs")
    p.add_argument("--config", type=Path, help="the configuration (default: <run>.yaml)")
    p.set_defaults(do=run)


def run(arguments: argparse.Namespace) -> None:
    """Write manifest and configuration, and say what was found and what to type next."""
    from spreadflow.errors import FileError
    from spreadflow.io import images
    from spreadflow.stages import start

    paths = images.expand(arguments.images)
    if not paths:
        found = ", ".join(arguments.images)
        raise FileError("images", "at least one image file", found, "Check the pattern.")
    folder = paths[0].absolute().parent.name
    name = arguments.run or re.sub(r"[^A-Za-z0-9_.-]+", "_", folder).lstrip(".-") or "run"
    started = start.run(
        start.Request(
            images=paths,
            run=name,
            data=arguments.data,
            config=arguments.config or Path(f"{name}.yaml"),
            cell=arguments.cell,
            space_group=arguments.space_group,
            geometry=arguments.geometry,
        )
    )
    for remark in started.remarks:
        print(f"{name}: {remark}", file=sys.stderr)
    print(f"{started.manifest} and {started.config} are written")
    if started.missing:
        keys = " and ".join(f"index.{key}" for key in started.missing)
        print(f"First set {keys} in {started.config}. Then:")
    print(f"snakemake --cores all --configfile {started.config}")
