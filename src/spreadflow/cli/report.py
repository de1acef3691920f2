"""What people look at: `summary` of a stage, `report` of a trial, `table` for the terminal."""

import argparse
from pathlib import Path

from spreadflow.trial import BY_WORD


def add_to(words: argparse._SubParsersAction) -> None:
    """Add the three words."""
    summary_help = "figures (JSON) and picture (PNG) of a stage's finished products"
    p = words.add_parser("summary", help=summary_help)
    p.add_argument("stage", choices=list(BY_WORD))
    products_help = "one file of the trial, or one per run"
    p.add_argument("--products", type=Path, nargs="+", required=True, help=products_help)
    images_help = "manifests of the runs, for stills and truth"
    p.add_argument("--images", type=Path, nargs="*", default=[], help=images_help)
    p.add_argument("--out", type=Path, required=True, help="the JSON; the PNG lies beside it")
    p.set_defaults(do=summary)

    p = words.add_parser("report", help="all summaries of a trial on one HTML page")
    p.add_argument("--summaries", type=Path, nargs="+", required=True)
    p.add_argument("--out", type=Path, required=True)
    p.set_defaults(do=report)

    p = words.add_parser("table", help="how a trial went, as a table")
    p.add_argument("trial", type=Path, help="folder of the trial")
    p.set_defaults(do=table)


def summary(arguments: argparse.Namespace) -> None:
    """Write figures and picture of a stage."""
    from spreadflow.report import summary

    summary.run(
        arguments.stage,
        products=arguments.products,
        images=arguments.images,
        out=arguments.out,
    )


def report(arguments: argparse.Namespace) -> None:
    """Write the page of a trial."""
    from spreadflow.report import page

    page.run(arguments.summaries, arguments.out)


def table(arguments: argparse.Namespace) -> None:
    """Print the table of a trial."""
    from spreadflow.report import table

    table.run(arguments.trial)
