"""`spreadflow validate FILE...`: what image files are and what is read from them, and traps."""

import argparse
import json
import sys
from pathlib import Path

from spreadflow.cli.manifest import GEOMETRY_HELP


def add_to(words: argparse._SubParsersAction) -> None:
    """Add the word."""
    p = words.add_parser("validate", help="what image files are, and what to mind")
    p.add_argument("files", nargs="+", metavar="FILE", help="image files; patterns may be quoted")
    p.add_argument("--geometry", type=Path, metavar="FILE", help=GEOMETRY_HELP)
    p.add_argument("--json", action="store_true", help="print JSON, a list of files")
    p.add_argument("--picture", type=Path, help="PNG of the first file: panels, rings, gain")
    p.set_defaults(do=run)


def run(arguments: argparse.Namespace) -> None:
    """Print what files are. Those that can't be read do not keep the others from being told; raises
    the error of the first of them in the end.
    """
    from spreadflow.errors import FileError
    from spreadflow.io import images
    from spreadflow.report import validate as report
    from spreadflow.stages import validate

    paths = images.expand(arguments.files)
    if not paths:
        found = ", ".join(arguments.files)
        raise FileError("files", "at least one image file", found, "Check the pattern.")
    named = arguments.geometry
    geometry = None if named is None else images.read_geometry(named)
    errors = []
    all_figures = []
    for path in paths:
        try:
            examined = validate.examine(path, geometry)
        except FileError as error:
            errors.append(error)
            all_figures.append({"file": str(path), "error": str(error)})
            continue
        if not arguments.json:
            print("\n".join(report.text(examined.figures)))
        if arguments.picture and all("error" in figures for figures in all_figures):
            report.draw(
                examined.figures,
                examined.shot,
                examined.detector,
                examined.estimates,
                arguments.picture,
            )
        all_figures.append(examined.figures)
    if arguments.json:
        print(json.dumps(all_figures, indent=1, ensure_ascii=False))
    for other in errors[1:]:
        print(f"spreadflow validate: {other}", file=sys.stderr)
    if errors:
        raise errors[0]
