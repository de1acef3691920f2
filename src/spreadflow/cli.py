"""`spreadflow <word>`: one word per stage. A stage is imported only when it is called."""

import argparse
import importlib
import sys
from pathlib import Path

from spreadflow import __version__
from spreadflow.config import OVERLAYS, for_stage
from spreadflow.errors import SpreadflowError

INPUTS: dict[str, dict[str, dict]] = {
    "simulate": {},
    "index": {"images": {}, "geometry": {"optional": True}},
    "level0": {"index": {"many": True}},
    "adopt": {"images": {}, "spec": {}},
    "reindex": {"images": {}, "geometry": {}},
    "cells": {"reindex": {"many": True}},
    "merge": {"reindex": {"many": True}, "cells": {}},
    "annulus": {"images": {"many": True}, "reindex": {"many": True}, "cells": {}},
    "wide": {"images": {"many": True}, "reindex": {"many": True}, "cells": {}},
    "ladder": {"annulus": {}, "cells": {}},
    "mosaic": {"annulus": {}},
    "stage1": {"annulus": {}, "mosaic": {"optional": True}},
    "spread": {"wide": {}, "stage1": {}, "mosaic": {"optional": True}},
}
"""The input files of each stage, in the order of the workflow."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spreadflow", description=__doc__)
    parser.add_argument("--version", action="version", version=f"spreadflow {__version__}")
    words = parser.add_subparsers(dest="word", required=True, metavar="WORD")
    for stage, inputs in INPUTS.items():
        p = words.add_parser(stage, help=f"the stage {stage}")
        p.add_argument(
            "--config", required=True, help="JSON of the stage's sections, or a YAML file"
        )
        p.add_argument("--ranks", type=int, default=1, help="ranks the launcher was asked for")
        p.add_argument("--out", type=Path, required=True, help="the product")
        if stage == "simulate":
            p.add_argument("--run", required=True, help="name of the run")
            p.add_argument(
                "--shots",
                metavar="FIRST:END",
                help="only the image files that hold these shots of the run",
            )
        for name, how in inputs.items():
            p.add_argument(
                f"--{name}",
                type=Path,
                required=not how.get("optional"),
                nargs="+" if how.get("many") else None,
            )
    _add_doors(words)
    _add_manifest(words)
    _add_reports(words)
    _add_plan(words)
    return parser


def _add_doors(words: argparse._SubParsersAction) -> None:
    """The words that are no stages. Each sets `do`, a function of the parsed arguments."""

    def config(_args: argparse.Namespace) -> None:
        from spreadflow.defaults import document

        print(document(), end="")

    def watch(_args: argparse.Namespace) -> None:
        from spreadflow.watch import watch

        watch()

    def profiles(_args: argparse.Namespace) -> None:
        from spreadflow.profiles import install

        for link in install():
            print(f"snakemake --profile {link.name}   ({link} -> {link.readlink()})")

    words.add_parser("config", help="print every key with its default").set_defaults(do=config)
    words.add_parser(
        "watch", help="turn a workflow's output on stdin into progress bars"
    ).set_defaults(do=watch)
    p = words.add_parser(
        "profiles", help="make `snakemake --profile NAME` find this checkout's profiles"
    )
    p.add_argument("action", choices=["install"])
    p.set_defaults(do=profiles)


def _add_manifest(words: argparse._SubParsersAction) -> None:
    """`spreadflow manifest GLOB... --out FILE` describes a run's image files; with `--check` it verifies FILE's."""

    def manifest(args: argparse.Namespace) -> None:
        from spreadflow.io import images

        if args.check:
            images.check_manifest(args.out)
            print(f"{args.out}: all files are as described")
            return
        made = images.write_manifest(
            args.out,
            args.run or args.out.absolute().parent.name,
            images.expand(args.images),
            offset_adu=args.offset_adu,
            adu_per_photon=args.adu_per_photon,
            polarization=args.polarization,
            mask=args.mask,
        )
        print(f"{args.out}: {len(made.files)} files, {sum(f.n_frames for f in made.files)} shots")

    p = words.add_parser("manifest", help="describe the image files of a run, or check them")
    p.add_argument(
        "images",
        nargs="*",
        metavar="GLOB",
        help="NXmx files; quote patterns to have them sorted here",
    )
    p.add_argument("--out", type=Path, required=True, help="the manifest")
    p.add_argument("--run", help="name of the run (default: the folder of --out)")
    p.add_argument(
        "--offset-adu", type=float, help="pedestal (default: as the files state, else 0)"
    )
    p.add_argument(
        "--adu-per-photon", type=float, help="gain (default: as the files state, else 1)"
    )
    p.add_argument(
        "--polarization", type=float, default=1.0, help="Kahn's K along the lab x axis (default 1)"
    )
    p.add_argument(
        "--mask", type=Path, help="HDF5 file with a dataset `mask`, non-zero = not to be used"
    )
    p.add_argument(
        "--check", action="store_true", help="verify sizes and checksums of the files of --out"
    )
    p.set_defaults(do=manifest)


def _add_reports(words: argparse._SubParsersAction) -> None:
    """What people look at: `summary` of a stage, `report` of a trial, `table` for the terminal."""

    def summary(args: argparse.Namespace) -> None:
        from spreadflow.report import summary

        summary.run(args.stage, products=args.products, images=args.images, out=args.out)

    def report(args: argparse.Namespace) -> None:
        from spreadflow.report import page

        page.run(args.summaries, args.out)

    def table(args: argparse.Namespace) -> None:
        from spreadflow.report import table

        table.run(args.trial)

    p = words.add_parser(
        "summary", help="figures (JSON) and picture (PNG) of a stage's finished products"
    )
    p.add_argument("stage", choices=list(INPUTS))
    p.add_argument(
        "--products",
        type=Path,
        nargs="+",
        required=True,
        help="one file of the trial, or one per run",
    )
    p.add_argument(
        "--images",
        type=Path,
        nargs="*",
        default=[],
        help="manifests of the runs, for stills and truth",
    )
    p.add_argument("--out", type=Path, required=True, help="the JSON; the PNG lies beside it")
    p.set_defaults(do=summary)
    p = words.add_parser("report", help="all summaries of a trial on one HTML page")
    p.add_argument("--summaries", type=Path, nargs="+", required=True)
    p.add_argument("--out", type=Path, required=True)
    p.set_defaults(do=report)
    p = words.add_parser("table", help="how a trial went, as a table")
    p.add_argument("trial", type=Path, help="folder of the trial")
    p.set_defaults(do=table)


def _add_plan(words: argparse._SubParsersAction) -> None:
    """`spreadflow plan --config FILE --out plan.json`: before the beam time, how many lattices curves will need."""

    def plan(args: argparse.Namespace) -> None:
        from functools import reduce

        from spreadflow import config
        from spreadflow.recipes import plan as stage
        from spreadflow.report import plan as report

        changes: dict = reduce(config.overlay, map(config.setting, args.set), {})
        told = stage.run(
            config.load(args.config, changes=changes),
            n_lattices=args.lattices,
            d_min=args.d_min,
            d_max=args.d_max,
            grids_ev=args.grid,
            band_ev=args.band,
            n_cells=args.n_cells,
            psf_fwhm_mm=args.psf_fwhm_mm,
        )
        report.run(told, args.out)

    p = words.add_parser(
        "plan", help="σ of f′, f″ and edges against the number of lattices, before the beam time"
    )
    p.add_argument(
        "--config",
        type=Path,
        required=True,
        help="a YAML file: crystal, beam, detector, structure_factors",
    )
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="over the file: beam.photons=5e11",
    )
    p.add_argument("--out", type=Path, required=True, help="the JSON; the PNG lies beside it")
    p.add_argument(
        "--lattices", type=int, default=24, help="simulated ones that all figures are scaled from"
    )
    p.add_argument(
        "--d-min", type=float, nargs="+", default=[], help="Å (default: that of `annulus`)"
    )
    p.add_argument(
        "--d-max",
        type=float,
        nargs="+",
        default=[],
        help="Å (default: of `annulus`, `spread` and `wide`)",
    )
    p.add_argument(
        "--grid",
        type=float,
        nargs="+",
        default=[1.0, 2.0, 4.0],
        help="eV from node to node (default 1 2 4)",
    )
    p.add_argument(
        "--band",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="eV (default: about the sites' edges)",
    )
    p.add_argument(
        "--n-cells", type=int, nargs="+", default=[], help="cells along an edge of a mosaic domain"
    )
    p.add_argument(
        "--psf-fwhm-mm", type=float, nargs="+", default=[], help="widths of the point spread"
    )
    p.set_defaults(do=plan)


def _run_stage(args: argparse.Namespace) -> int:
    from spreadflow.parallel import World

    module = importlib.import_module(f"spreadflow.stages.{OVERLAYS.get(args.word, args.word)}")
    config = for_stage(args.config, args.word, getattr(args, "run", None))
    inputs = {name: getattr(args, name) for name in INPUTS[args.word]}
    if args.word == "simulate":
        inputs |= {"run": args.run, "shots": args.shots}
    world = World(args.ranks)
    try:
        module.run(config, **inputs, out=args.out, world=world, word=args.word)
    except SpreadflowError as error:
        print(f"spreadflow {args.word}: {error}", file=sys.stderr)
        world.abort(error.exit_code)
    except Exception as error:
        world.report(error)
        world.abort(1)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point. Returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        if "do" in args:
            args.do(args)
            return 0
        return _run_stage(args)
    except SpreadflowError as error:
        print(f"spreadflow {args.word}: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
